"""Which part of the model's input a unit sees."""

import numpy as np

from ..indexes.folder import Array
from .index import Reach


def boxes(field: Reach | None, y: Array, x: Array, size: tuple[int, int]) -> Array:
    """Top, left, bottom and right of the units at y and x, [n] each, in pixels of an input of that height and width.

    [n, 4]; rows end before `bottom`, columns before `right`. A receptive field is cut at the border; without one the
    box is the whole input.
    """
    height, width = size
    if field is None:
        return np.broadcast_to(np.array([0, 0, height, width]), (len(y), 4))
    top, bottom = _span(field.offset_y + field.stride_y * y.astype(int), field.height, height)
    left, right = _span(field.offset_x + field.stride_x * x.astype(int), field.width, width)
    return np.stack([top, left, bottom, right], 1)


def _span(begins: Array, length: int, limit: int) -> tuple[Array, Array]:
    """Where lines of that length begin and end, cut to 0 and the limit; one beyond them becomes the nearest pixel."""
    low = begins.clip(0, limit - 1)
    return low, (begins + length).clip(low + 1, limit)
