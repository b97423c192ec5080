"""The views of Inspect, from what workers answer to messages."""

from typing import Any

import numpy as np

from gradserve.v1 import inspect_pb2

from ...methods.inspect import ViewArguments
from ...methods.inspect.activations import ActivationsArguments, ShownMaps
from ...methods.inspect.receptive_field import Field
from ...methods.inspect.table import Activity, LayerStatistics, TableArguments
from ...methods.inspect.weights import ShownWeights, WeightsArguments
from ...models.card import Layer, ModelCard
from ..pictures.sheets import in_colour, of_map, sheet, signed
from ..reply import fill_tensor
from ..request import Bound
from .inspect_views import every_layer, table_layers

ROW_HEIGHT = 8  # Pixels of a line of weights that lie on no map.


def fill(
    message: inspect_pb2.InspectResponse,
    request: inspect_pb2.InspectRequest,
    view: ViewArguments,
    bound: Bound,
    result: Any,
) -> None:
    """Writes the view that was asked for into the response."""
    if isinstance(view, WeightsArguments):
        _weights(message.weights, request.weights, view, bound.card, result)
    elif isinstance(view, ActivationsArguments):
        _activations(message.activations, request.activations, view, bound, result)
    elif isinstance(view, TableArguments):
        _table(message.table, bound.card, view, result)
    else:
        fill_field(message.receptive_field, view.layer, result)


def _weights(
    message: inspect_pb2.Weights,
    asked: inspect_pb2.WeightsView,
    view: WeightsArguments,
    card: ModelCard,
    shown: ShownWeights,
) -> None:
    layer = next(each for each in every_layer(card) if each.name == view.layer)
    message.layer = layer.name
    message.shape.extend(layer.weight)
    message.channels.extend(shown.channels.tolist())
    message.norms.extend(shown.norms.tolist())
    message.folded = card.folded.get(layer.name, "")
    scales = [shown.largest if asked.common_scale else float(np.abs(each).max()) for each in shown.maps]
    if view.inputs is not None:
        message.look = inspect_pb2.WEIGHTS_LOOK_MAPS
        message.inputs.extend(shown.inputs.flatten().tolist())
        cells = [signed(each, scale) for maps, scale in zip(shown.maps, scales, strict=True) for each in maps]
        message.png = sheet(cells, 0 if shown.maps.shape[1] == 1 else shown.maps.shape[1])
    elif len(layer.weight) == 2 and view.map is None:
        message.look = inspect_pb2.WEIGHTS_LOOK_ROW
        lines = [signed(each[0], scale) for each, scale in zip(shown.maps, scales, strict=True)]
        message.png = sheet([np.repeat(line, ROW_HEIGHT, 0) for line in lines], 1)
    else:
        message.look = inspect_pb2.WEIGHTS_LOOK_COLOUR
        filters = [in_colour(each, scale) for each, scale in zip(shown.maps, scales, strict=True)]
        message.png = sheet(filters, paper="white")  # Zero is grey here.
    if shown.values is not None:
        fill_tensor(message.values, shown.values)


def _activations(
    message: inspect_pb2.Activations,
    asked: inspect_pb2.ActivationsView,
    view: ActivationsArguments,
    bound: Bound,
    shown: ShownMaps,
) -> None:
    layer = bound.card.layer(view.layer)
    assert layer is not None, "the request was checked"
    message.layer, message.total = layer.name, layer.channels
    message.channels.extend(shown.channels.tolist())
    message.means.extend(shown.means.tolist())
    message.maxima.extend(shown.maxima.tolist())
    message.png = sheet([of_map(each) for each in shown.maps])
    message.region.CopyFrom(bound.picture.region)
    if asked.values:
        fill_tensor(message.values, shown.maps)


def _table(message: inspect_pb2.LayerTable, card: ModelCard, view: TableArguments, statistics: LayerStatistics) -> None:
    layers = table_layers(card)
    message.parameters = card.parameters
    message.multiply_adds = round(card.gflop * 1e9 / 2)
    own = card.channels * card.height * card.width
    message.values = own + sum(layer.values for layer in layers if layer.counted)
    message.pictures = view.pictures
    if statistics.loss is not None:
        message.loss = statistics.loss
    message.layers.extend(_row(layer, card, statistics.layers.get(layer.name)) for layer in layers)


def _row(layer: Layer, card: ModelCard, activity: Activity | None) -> inspect_pb2.LayerRow:
    row = inspect_pb2.LayerRow(
        name=layer.name,
        kind=layer.kind,
        shape=layer.shape,
        values=layer.values,
        counted=layer.counted,
        parameters=layer.parameters,
        multiply_adds=layer.multiply_adds,
        folded=card.folded.get(layer.name, ""),
    )
    if activity is not None:
        row.mean, row.std = activity.mean, activity.std
        if activity.dead_share is not None:
            row.dead_share = activity.dead_share
        if activity.gradient_norm is not None:
            row.gradient_norm = activity.gradient_norm
    return row


def fill_field(message: inspect_pb2.ReceptiveField, layer: str, field: Field) -> None:
    """Writes what was measured into the message."""
    top, left, bottom, right = field.extent
    message.layer = layer
    message.height, message.width = bottom - top, right - left
    message.at_least = any(field.at_borders) or field.faint
    message.whole_picture = all(field.at_borders)
    message.effective_size = field.effective
    message.picture_height, message.picture_width = field.picture
    message.y, message.x = field.unit
    stride_y, stride_x = field.stride
    if stride_y is not None:
        message.stride_y, message.offset_y = stride_y, top - stride_y * field.unit[0]
    if stride_x is not None:
        message.stride_x, message.offset_x = stride_x, left - stride_x * field.unit[1]
