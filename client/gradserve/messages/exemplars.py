"""Pure functions for Exemplars: arguments -> request message, reply -> result."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

from gradserve import images
from gradserve.messages.common import check_names, provenance_of
from gradserve.messages.common import count as number
from gradserve.results.exemplars import ChannelExemplars, ExemplarPatch, Exemplars
from gradserve.v1 import exemplars_pb2


class ExemplarsArguments(TypedDict, total=False):
    """What `exemplars` takes besides the layer.

    channels: numbers of channels; else `count` of them, the strongest, 8 if it is left out. top: how many patches of
    each, by default all that the index keeps. spectrum: also pictures from the strongest to the weakest. values: also
    the mean of each channel on every picture of the index.
    """

    model: str
    channels: Sequence[int]
    count: int
    top: int
    spectrum: bool
    values: bool


_NAMES = ExemplarsArguments.__annotations__.keys() | {"timeout"}


def exemplars_request(layer: str = "", **arguments: Unpack[ExemplarsArguments]) -> exemplars_pb2.ExemplarsRequest:
    """The arguments of Exemplars as a message."""
    check_names("exemplars", arguments, _NAMES)
    return _request(layer, **arguments)


def _request(
    layer: str,
    *,
    model: str = "",
    channels: Sequence[int] = (),
    count: int | None = None,
    top: int | None = None,
    spectrum: bool = False,
    values: bool = False,
) -> exemplars_pb2.ExemplarsRequest:
    return exemplars_pb2.ExemplarsRequest(
        model=model,
        layer=layer,
        channels=[number("channels", each) for each in channels],
        count=None if count is None else number("count", count),
        top=None if top is None else number("top", top),
        spectrum=spectrum,
        values=values,
    )


def exemplars_result(reply: exemplars_pb2.ExemplarsResponse) -> Exemplars:
    """The reply of Exemplars as a result."""
    return Exemplars(
        layer=reply.layer,
        channels=tuple(map(_channel, reply.channels)),
        pictures=reply.pictures,
        layers=tuple(reply.layers),
        size=(reply.height, reply.width),
        values=images.numbers(reply.values) if reply.HasField("values") else None,
        provenance=provenance_of(reply.provenance),
    )


def _channel(reply: exemplars_pb2.ChannelExemplars) -> ChannelExemplars:
    return ChannelExemplars(
        channel=reply.channel,
        purity=reply.purity if reply.HasField("purity") else None,
        exemplars=tuple(map(_patch, reply.exemplars)),
        spectrum=tuple(map(_patch, reply.spectrum)),
    )


def _patch(reply: exemplars_pb2.ExemplarPatch) -> ExemplarPatch:
    return ExemplarPatch(
        value=reply.value,
        row=reply.row,
        name=reply.name,
        label=reply.label if reply.HasField("label") else None,
        label_name=reply.label_name,
        place=(reply.y, reply.x) if reply.HasField("y") else None,
        left=reply.left,
        top=reply.top,
        width=reply.width,
        height=reply.height,
        picture=reply.picture,
    )
