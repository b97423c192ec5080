"""The receptive fields of a model's layers, measured as Inspect does it."""

from collections.abc import Generator
from typing import Any

import torch

from ....engine.differentiate import differentiate
from ....engine.job import MethodContext
from ....engine.objective import NotApplicable
from ....engine.query import Part, Query
from ....models.card import Layer
from ....models.prepared import Prepared
from ...inspect.receptive_field import Field, FieldArguments, receptive_field
from ..index import Reach

CHANNELS = 16  # The most channels of a layer by which its field is measured.


def reach_of(model: Prepared, layer: Layer) -> Reach | None:
    """The receptive field of a layer's units; None where they see the whole picture, or where it cannot be told.

    A field that is cut off on a picture twice as high and wide as the model's own input covers all of that input from
    every unit, so that larger pictures need not be tried. Where only the fields of the neighbouring units are cut off,
    a picture of three times that size is tried.
    """
    card = model.card
    if not layer.is_map or card.no_gradient:
        return None
    for factor in (1, 2, 3) if card.any_size else (1,):
        field = _measured(model, layer, (card.height * factor, card.width * factor))
        if field is None or (factor == 2 and any(field.at_borders)):
            return None
        if None not in field.stride:
            return _reach(field)
    return None


def _measured(model: Prepared, layer: Layer, size: tuple[int, int]) -> Field | None:
    """The receptive field by pictures of one size; None where no pixel changes the layer."""
    few = min(CHANNELS, layer.channels)
    channels = tuple(i * layer.channels // few for i in range(few))
    x = torch.empty(0, device=model.device, dtype=model.dtype)
    try:
        arguments = FieldArguments(layer.name, channels, True, (size,))
        field: Field = finished(model, receptive_field(MethodContext(), x, arguments))
    except NotApplicable:
        return None
    return field


def _reach(field: Field) -> Reach:
    """The fields of all units, from that of one unit and the stride."""
    stride_y, stride_x = field.stride
    assert stride_y is not None, "the caller has checked that it was measured"
    assert stride_x is not None, "the caller has checked that it was measured"
    top, left, bottom, right = field.extent
    return Reach(
        height=bottom - top,
        width=right - left,
        stride_y=stride_y,
        stride_x=stride_x,
        offset_y=top - stride_y * field.unit[0],
        offset_x=left - stride_x * field.unit[1],
    )


def finished(model: Prepared, steps: Generator[Any, Any, Any]) -> Any:
    """Runs a method to its end, in passes of its own; returns its result."""
    answer: Any = None
    try:
        while True:
            request = steps.send(answer)
            queries = [request] if isinstance(request, Query) else request
            answers = [differentiate(model, [Part(each, range(len(each.images)))])[0] for each in queries]
            answer = answers[0] if isinstance(request, Query) else answers
    except StopIteration as end:
        return end.value
