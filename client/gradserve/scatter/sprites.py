"""Many small pictures as one, so that a page carries them compactly."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

# Pairs of a number of pictures and the side in pixels of the cells of at most so many.
_CELL_SIDES = ((1000, 64), (5000, 48))
_MIN_CELL_SIDE = 32  # The side in pixels of the cells of more pictures than that.
_QUALITY = 80


@dataclass(frozen=True)
class Sheet:
    """A JPEG of cells in rows, as a data URL: `side` pixels a cell, `columns` cells a row. Empty without pictures."""

    url: str
    side: int
    columns: int


def sheet(pictures: Sequence[Image.Image | None]) -> Sheet:
    """The pictures in their order, each in the middle of its cell; None leaves its cell white."""
    there = [each for each in pictures if each is not None]
    if not there:
        return Sheet("", 0, 0)
    allowed = next((side for most, side in _CELL_SIDES if len(pictures) <= most), _MIN_CELL_SIDE)
    side = min(allowed, max(max(each.size) for each in there))
    columns = math.ceil(math.sqrt(len(pictures)))
    paper = Image.new("RGB", (columns * side, math.ceil(len(pictures) / columns) * side), "white")
    for i, each in enumerate(pictures):
        if each is not None:
            small = each.convert("RGB")
            small.thumbnail((side, side))
            left, top = (i % columns) * side, (i // columns) * side
            paper.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))
    file = io.BytesIO()
    paper.save(file, "JPEG", quality=_QUALITY)
    return Sheet(f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}", side, columns)
