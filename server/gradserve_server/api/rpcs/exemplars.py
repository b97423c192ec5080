"""Exemplars: from its request to rows of an index of pictures, which has all that the reply says: no task is needed."""

from dataclasses import dataclass

import numpy as np

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import exemplars_pb2

from ... import __version__
from ...methods.indexes.folder import Array, IndexFault
from ...methods.pictures.boxes import boxes
from ...methods.pictures.exemplars import purity, strongest
from ...methods.pictures.index import MAX_TOP, PictureIndex, PictureLayer, opened
from ...models.card import ModelCard
from ...models.served import ServedModels
from ..errors import Violations, shown
from ..reply import PRECISION_NUMBERS, tensor
from ..request import model_of

MAX_CHANNELS, DEFAULT_COUNT = 64, 8
MAX_VALUE_BYTES = 40 << 20  # The most bytes of numbers in one reply; the patches need what it may have besides.
NUMBER_BYTES = 4
MAX_PATCHES = 2000  # The most patches of a reply.


@dataclass(frozen=True, slots=True)
class Showing:
    """A checked request: which channels of which layer, and how many patches of each."""

    card: ModelCard
    index: PictureIndex
    layer: int  # Its number in the index.
    channels: tuple[int, ...]
    top: int


def bind(request: exemplars_pb2.ExemplarsRequest, cards: ServedModels) -> Showing:
    """Checks the request, and finds the channels to show. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, cards)
    count = _count(request, violations)
    index = pictures_of(card, violations)
    top = _top(request, index, violations)
    layer = None if index is None else indexed_layer(request.layer, index, card, violations)
    if index is None or layer is None:
        violations.check()
        raise AssertionError("violations were checked")
    channels = _channels(request, index.manifest.layers[layer], violations)
    shown_channels = len(channels) or min(count, index.manifest.layers[layer].channels)
    _check_sizes(request, shown_channels, top, index, violations)
    violations.check()
    return Showing(card, index, layer, channels or strongest(index, layer, count), top)


def pictures_of(card: ModelCard, violations: Violations) -> PictureIndex | None:
    """The model's index of pictures, or None with a refusal that says how to build one."""
    if not card.pictures:
        build = f"gradserve index --kind pictures --model {card.name} --data PICTURES --out FOLDER"
        text = f'{card.name} has no index of pictures; build one with `{build}` and serve it with pictures = "FOLDER"'
        violations.not_applicable(text)
        return None
    try:
        return opened(card.pictures, card.pictures_digest)
    except IndexFault as error:
        violations.not_applicable(str(error))
        return None


def indexed_layer(name: str, index: PictureIndex, card: ModelCard, violations: Violations) -> int | None:
    """The number of an indexed layer, by default the last; None with a violation that names those that are."""
    names = [layer.name for layer in index.manifest.layers]
    number = index.number(card.listed(name)) if name else len(names) - 1
    if number is None:
        text = f"{shown(name)} is not in the index of pictures of {card.name}, which has {', '.join(names)}"
        violations.add("layer", text)
    return number


def _count(request: exemplars_pb2.ExemplarsRequest, violations: Violations) -> int:
    """How many channels are shown, where they are not named."""
    count = int(request.count) if request.HasField("count") else DEFAULT_COUNT
    if not 1 <= count <= MAX_CHANNELS:
        violations.add("count", f"must be from 1 to {MAX_CHANNELS}, was {count}", for_every_model=True)
    elif request.HasField("count") and request.channels:
        text = "is for the strongest channels, and channels names some; set one of both"
        violations.add("count", text, for_every_model=True)
    if len(request.channels) > MAX_CHANNELS:
        text = f"must be at most {MAX_CHANNELS}, were {len(request.channels)}"
        violations.add("channels", text, for_every_model=True)
    return count


def _channels(request: exemplars_pb2.ExemplarsRequest, layer: PictureLayer, violations: Violations) -> tuple[int, ...]:
    """The numbers of the named channels, with a violation for the first that the layer does not have."""
    beyond = next((each for each in request.channels if each >= layer.channels), None)
    if beyond is not None:
        few = f"{layer.name} has {layer.channels} channels"
        violations.add("channels", f"must be from 0 to {layer.channels - 1}, as {few}; was {beyond}")
    return tuple(request.channels)


def _top(request: exemplars_pb2.ExemplarsRequest, index: PictureIndex | None, violations: Violations) -> int:
    """How many patches of each channel."""
    most = MAX_TOP if index is None else index.manifest.top
    top = int(request.top) if request.HasField("top") else most
    if not 1 <= top <= MAX_TOP:
        violations.add("top", f"must be from 1 to {MAX_TOP}, was {top}", for_every_model=True)
    elif top > most:
        violations.add("top", f"must be from 1 to {most}, as the index keeps no more; was {top}")
    return top


def _check_sizes(
    request: exemplars_pb2.ExemplarsRequest, channels: int, top: int, index: PictureIndex, violations: Violations
) -> None:
    """Violations for more than a reply carries."""
    path = "channels" if request.channels else "count"
    patches = channels * (top + (index.manifest.spectrum if request.spectrum else 0))
    if patches > MAX_PATCHES:
        text = f"these are {patches} patches, and at most {MAX_PATCHES} are allowed; ask for fewer channels"
        violations.add(path, text)
    size = channels * len(index) * NUMBER_BYTES
    if request.values and size > MAX_VALUE_BYTES:
        limit = f"at most {MAX_VALUE_BYTES >> 20} MiB are allowed; ask for fewer channels"
        violations.add(path, f"these channels have {size / 2**20:.1f} MiB of values; {limit}")


def reply(
    request: exemplars_pb2.ExemplarsRequest, showing: Showing, request_id: str
) -> exemplars_pb2.ExemplarsResponse:
    """The patches of each channel."""
    card, index, manifest = showing.card, showing.index, showing.index.manifest
    chosen = list(showing.channels)
    message = exemplars_pb2.ExemplarsResponse(
        layer=manifest.layers[showing.layer].name,
        channels=[_channel(showing, each, spectrum=request.spectrum) for each in chosen],
        pictures=len(index),
        layers=[layer.name for layer in manifest.layers],
        height=manifest.height,
        width=manifest.width,
        provenance=pb.Provenance(
            model=card.name,
            weights_digest=card.digest,
            precision=PRECISION_NUMBERS["exact"],
            server_version=__version__,
            request_id=request_id,
        ),
    )
    if request.values:
        message.values.CopyFrom(tensor(np.ascontiguousarray(index.features(showing.layer)[:, chosen].T)))
    return message


def _channel(showing: Showing, channel: int, *, spectrum: bool) -> exemplars_pb2.ChannelExemplars:
    index, layer = showing.index, showing.layer
    exemplars = index.exemplars(layer)[channel][: showing.top]
    message = exemplars_pb2.ChannelExemplars(channel=channel, exemplars=_patches(index, layer, exemplars))
    if spectrum:
        message.spectrum.extend(_patches(index, layer, index.spectrum(layer)[channel]))
    share = purity(index.labels[exemplars["picture"]])
    if share is not None:
        message.purity = share
    return message


def _patches(index: PictureIndex, i: int, table: Array) -> list[exemplars_pb2.ExemplarPatch]:
    """Records PATCH [k] of layer i with all that is known of them."""
    manifest, layer = index.manifest, index.manifest.layers[i]
    places = boxes(layer.field, table["y"], table["x"], (manifest.height, manifest.width)).tolist()
    messages = []
    for patch, (top, left, bottom, right) in zip(table, places, strict=True):
        row, label = int(patch["picture"]), int(index.labels[patch["picture"]])
        message = exemplars_pb2.ExemplarPatch(
            value=float(patch["value"]),
            row=row,
            name=index.name(row),
            left=left,
            top=top,
            width=right - left,
            height=bottom - top,
            picture=index.patch(i, int(patch["patch"])),
        )
        if label >= 0:
            message.label, message.label_name = label, index.class_name(label)
        if layer.height:
            message.y, message.x = int(patch["y"]), int(patch["x"])
        messages.append(message)
    return messages
