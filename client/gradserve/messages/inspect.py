"""Pure functions for Inspect: arguments -> request message, reply -> result."""

from collections.abc import Sequence
from typing import Any, Literal, Unpack

from gradserve import images as pixels
from gradserve.arguments import BatchLike, ImageLike, Layout, Options, PhotoOptions
from gradserve.messages import fields, inputs
from gradserve.messages.common import (
    PREPROCESS,
    check_names,
    choice,
    count,
    provenance_of,
    region_of,
    request_options,
)
from gradserve.parameters.common import Preprocess
from gradserve.parameters.inspect import ChannelOrder
from gradserve.results.inspect import Activations, LayerRow, LayerTable, ReceptiveField, Weights
from gradserve.v1 import inspect_pb2

View = Literal["weights", "activations", "table", "receptive_field"]
VIEWS: tuple[View, ...] = ("weights", "activations", "table", "receptive_field")
ORDER, _LOOK = (inspect_pb2.DESCRIPTOR.enum_types_by_name[name] for name in ("ChannelOrder", "WeightsLook"))


class InspectOptions(Options, total=False):
    """What every view takes: the options of a request, and the model."""

    model: str


class WeightsArguments(InspectOptions, total=False):
    """What the view "weights" takes besides the layer.

    channels: numbers of output channels; else `count` of them, the strongest, 64 if it is left out. inputs: how many
    input channels of each, the strongest, 8 if it is left out. common_scale: one scale for all. values: also as
    numbers.
    """

    channels: Sequence[int]
    count: int
    inputs: int
    common_scale: bool
    values: bool


class ActivationsArguments(PhotoOptions, total=False):
    """What the view "activations" takes besides the layer and the picture.

    channels: numbers of channels; else `count` of them, the strongest by `order`, "mean" or "max"; 16 if it is left
    out. values: the maps as numbers too.
    """

    channels: Sequence[int]
    count: int
    order: ChannelOrder
    values: bool


class TableArguments(PhotoOptions, total=False):
    """What the view "table" takes: pictures, and the class of each by which the loss is computed."""

    images: BatchLike
    labels: Sequence[int]


class FieldArguments(InspectOptions, total=False):
    """What the view "receptive_field" takes besides the layer: the channel, by default several together."""

    channel: int


_OWN: dict[str, Any] = {
    "weights": WeightsArguments,
    "activations": ActivationsArguments,
    "table": TableArguments,
    "receptive_field": FieldArguments,
}


def inspect_request(
    view: View, layer: str = "", image: ImageLike | None = None, **arguments: Any
) -> inspect_pb2.InspectRequest:
    """The arguments of Inspect as a message."""
    if view not in VIEWS:
        raise fields.unknown("view", view, VIEWS)
    check_names(f"inspect({view!r})", arguments, _OWN[view].__annotations__.keys() | {"timeout"})
    if (layer == "") != (view == "table"):
        raise ValueError(f"the view {view!r} {'is of all layers' if layer else 'needs the name of a layer'}")
    if (image is None) == (view == "activations"):
        raise ValueError(f"the view {view!r} {'needs a picture' if image is None else 'takes no single picture'}")
    if view == "weights":
        return _weights(layer, **arguments)
    if view == "activations":
        return _activations(layer, image, **arguments)
    return _table(**arguments) if view == "table" else _receptive_field(layer, **arguments)


def _weights(
    layer: str,
    *,
    channels: Sequence[int] = (),
    count: int | None = None,
    inputs: int | None = None,
    common_scale: bool = False,
    values: bool = False,
    model: str = "",
    **options: Unpack[Options],
) -> inspect_pb2.InspectRequest:
    view = inspect_pb2.WeightsView(
        layer=layer,
        channels=_counts("channels", channels),
        count=_optional("count", count),
        inputs=_optional("inputs", inputs),
        common_scale=common_scale,
        values=values,
    )
    return inspect_pb2.InspectRequest(model=model, weights=view, options=request_options(**options))


def _activations(
    layer: str,
    image: Any,
    *,
    channels: Sequence[int] = (),
    count: int | None = None,
    order: ChannelOrder = "mean",
    values: bool = False,
    model: str = "",
    preprocess: Preprocess = "model_default",
    layout: Layout = "HWC",
    **options: Unpack[Options],
) -> inspect_pb2.InspectRequest:
    view = inspect_pb2.ActivationsView(
        layer=layer,
        image=inputs.message(image, layout),
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        channels=_counts("channels", channels),
        count=_optional("count", count),
        order=choice("order", ORDER, order),
        values=values,
    )
    return inspect_pb2.InspectRequest(model=model, activations=view, options=request_options(**options))


def _table(
    *,
    images: BatchLike | None = None,
    labels: Sequence[int] = (),
    model: str = "",
    preprocess: Preprocess = "model_default",
    layout: Layout = "HWC",
    **options: Unpack[Options],
) -> inspect_pb2.InspectRequest:
    view = inspect_pb2.TableView(
        images=[] if images is None else [inputs.message(each, layout) for each in inputs.batch(images)],
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        labels=_counts("labels", labels),
    )
    return inspect_pb2.InspectRequest(model=model, table=view, options=request_options(**options))


def _receptive_field(
    layer: str, *, channel: int | None = None, model: str = "", **options: Unpack[Options]
) -> inspect_pb2.InspectRequest:
    view = inspect_pb2.ReceptiveFieldView(layer=layer, channel=_optional("channel", channel))
    return inspect_pb2.InspectRequest(model=model, receptive_field=view, options=request_options(**options))


def _counts(name: str, values: Sequence[int]) -> list[int]:
    return [count(name, each) for each in values]


def _optional(name: str, value: int | None) -> int | None:
    return None if value is None else count(name, value)


def inspected(reply: inspect_pb2.InspectResponse) -> Weights | Activations | LayerTable | ReceptiveField:
    """The reply of Inspect as a result."""
    origin = provenance_of(reply.provenance)
    view = reply.WhichOneof("view")
    if view == "weights":
        shown = reply.weights
        return Weights(
            layer=shown.layer,
            look=fields.choice_name(_LOOK, shown.look),
            shape=tuple(shown.shape),
            channels=tuple(shown.channels),
            norms=tuple(shown.norms),
            inputs=_by_row(shown.inputs, len(shown.channels)),
            folded=shown.folded,
            png=shown.png,
            values=pixels.numbers(shown.values) if shown.HasField("values") else None,
            provenance=origin,
        )
    if view == "activations":
        maps = reply.activations
        return Activations(
            layer=maps.layer,
            total=maps.total,
            channels=tuple(maps.channels),
            means=tuple(maps.means),
            maxima=tuple(maps.maxima),
            png=maps.png,
            values=pixels.numbers(maps.values) if maps.HasField("values") else None,
            region=region_of(maps.region),
            provenance=origin,
        )
    if view == "table":
        table = reply.table
        totals = (table.parameters, table.multiply_adds, table.values, table.pictures)
        return LayerTable(tuple(map(_row, table.layers)), *totals, _given(table, "loss"), origin)
    return _field(reply.receptive_field, origin)


def _by_row(numbers: Sequence[int], rows: int) -> tuple[tuple[int, ...], ...]:
    each = len(numbers) // max(1, rows)
    return tuple(tuple(numbers[i : i + each]) for i in range(0, len(numbers), each)) if each else ()


def _given(message: Any, name: str) -> Any:
    """The value of a field that may be absent."""
    return getattr(message, name) if message.HasField(name) else None


def _row(row: inspect_pb2.LayerRow) -> LayerRow:
    return LayerRow(
        name=row.name,
        kind=row.kind,
        shape=tuple(row.shape),
        values=row.values,
        counted=row.counted,
        parameters=row.parameters,
        multiply_adds=row.multiply_adds,
        folded=row.folded,
        **{name: _given(row, name) for name in ("dead_share", "mean", "std", "gradient_norm")},
    )


def _field(field: inspect_pb2.ReceptiveField, origin: Any) -> ReceptiveField:
    stride, offset = ((_given(field, f"{name}_y"), _given(field, f"{name}_x")) for name in ("stride", "offset"))
    return ReceptiveField(
        layer=field.layer,
        height=field.height,
        width=field.width,
        at_least=field.at_least,
        whole_picture=field.whole_picture,
        stride=stride,
        offset=offset,
        effective_size=field.effective_size,
        picture=(field.picture_height, field.picture_width),
        unit=(field.y, field.x),
        provenance=origin,
    )
