"""Views of the tests' server: two channels of everything."""

from typing import Any

import numpy as np

from gradserve import images
from gradserve.v1 import common_pb2, inspect_pb2

VALUES = np.arange(2 * 3 * 4, dtype="<f4").reshape(2, 3, 4)  # Of two maps, or of two lines of weights.
ROWS: list[dict[str, Any]] = [
    {"name": "conv1", "kind": "Conv2d", "shape": [8, 12, 12], "values": 1152, "counted": True, "parameters": 216},
    {"name": "bn1", "kind": "BatchNorm2d", "shape": [8, 12, 12], "values": 1152, "parameters": 16},
]


def inspected(request: Any, provenance: Any, region: Any) -> inspect_pb2.InspectResponse:
    """The reply."""
    reply = inspect_pb2.InspectResponse(provenance=provenance)
    view = request.WhichOneof("view")
    asked = getattr(request, view)
    picture = images.png(images.Image.fromarray(np.full((8, 16, 3), 100, np.uint8)))
    if view == "weights":
        shown = {"layer": asked.layer, "look": 2, "shape": [8, 3, 3, 3], "channels": [5, 1], "norms": [2.0, 1.0]}
        reply.weights.CopyFrom(inspect_pb2.Weights(**shown, inputs=[2, 0, 1, 2], png=picture, folded="bn1"))
    elif view == "activations":
        shown = {"layer": asked.layer, "total": 8, "channels": [5, 1], "means": [0.5, 0.25], "maxima": [2.0, 1.0]}
        reply.activations.CopyFrom(inspect_pb2.Activations(**shown, png=picture, region=region))
    elif view == "table":
        _fill_table(reply.table, asked)
    else:
        _fill_field(reply.receptive_field, asked.layer)
    if view in ("weights", "activations") and asked.values:
        values = common_pb2.Tensor(shape=VALUES.shape, dtype=common_pb2.DTYPE_FLOAT32, data=VALUES.tobytes())
        getattr(reply, view).values.CopyFrom(values)
    return reply


def _fill_table(table: inspect_pb2.LayerTable, asked: inspect_pb2.TableView) -> None:
    table.parameters, table.multiply_adds, table.values, table.pictures = 999, 31104, 1584, len(asked.images)
    table.layers.extend(inspect_pb2.LayerRow(**row) for row in ROWS)
    table.layers[0].folded = "bn1"
    if asked.images:
        table.loss = 0.5
        row = table.layers[1]
        row.dead_share, row.mean, row.std, row.gradient_norm = 0.125, 0.0, 1.0, 0.25


def _fill_field(field: inspect_pb2.ReceptiveField, layer: str) -> None:
    """Of the layer "whole" all of the picture, else 7 x 7 pixels."""
    field.layer, field.effective_size = layer, 4.5
    field.picture_height, field.picture_width, field.y, field.x = 24, 24, 6, 6
    if layer == "whole":
        field.height, field.width, field.at_least, field.whole_picture = 24, 24, True, True
    else:
        field.height, field.width = 7, 7
        field.stride_y, field.stride_x, field.offset_y, field.offset_x = 2, 2, -3, -3
