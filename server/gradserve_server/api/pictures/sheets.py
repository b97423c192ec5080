"""Sheets of small pictures: filters, and activation maps."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from gradserve import colours

from .images import png

CELL = 96  # Pixels of a cell's longer side, if a whole factor enlarges it to about so many.
GAP = 2  # Pixels between two cells.
PAPER = "#8c8c8c"  # Between them: neither the white of zero nor the black of nothing.
MAX_SIDE = 4096  # Pixels of a sheet's longer side.
GREY = 127.5  # What stands for a weight of zero in colour.


def sheet(cells: Sequence[np.ndarray], columns: int = 0, paper: str = PAPER) -> bytes:
    """Cells of one size, uint8 [h, w, 3], in rows on paper as a PNG file; by default the grid is nearly square."""
    height, width = cells[0].shape[:2]
    columns = columns or min(len(cells), math.ceil(math.sqrt(len(cells) * height / width)) or 1)
    rows = math.ceil(len(cells) / columns)
    factor = float(max(1, round(CELL / max(height, width))))
    room = min((MAX_SIDE / count - GAP) / side for count, side in ((rows, height), (columns, width)))
    if factor > room:
        factor = math.floor(room) if room >= 1 else room
    height, width = (max(1, math.floor(side * factor)) for side in (height, width))
    page = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), paper)
    way = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX
    for place, cell in enumerate(cells):
        picture = Image.fromarray(cell).resize((width, height), way)
        page.paste(picture, (place % columns * (width + GAP), place // columns * (height + GAP)))
    return png(np.asarray(page))


def in_colour(weights: np.ndarray, largest: float) -> np.ndarray:
    """A filter [3, h, w] about grey, as [h, w, 3] uint8; `largest`: the absolute weight that is black or white."""
    level = weights.transpose(1, 2, 0).astype(np.float64) / largest if largest else np.zeros((*weights.shape[1:], 3))
    return np.rint(GREY * (1 + level.clip(-1, 1))).astype(np.uint8)


def signed(values: np.ndarray, largest: float) -> np.ndarray:
    """Values [h, w] as blue, white and red, [h, w, 3] uint8; `largest`: the absolute value of the strongest colours."""
    level = values.astype(np.float64) / largest if largest else np.zeros(values.shape)
    return colours.coloured(level.clip(-1, 1), signed=True)


def of_map(values: np.ndarray) -> np.ndarray:
    """An activation map [h, w], scaled by itself, as [h, w, 3] uint8: signed where it has negative values."""
    if colours.signed(values):
        return signed(values, float(np.abs(values).max()))
    highest = float(values.max())
    level = values.astype(np.float64) / highest if highest else np.zeros(values.shape)
    return colours.coloured(level, signed=False)
