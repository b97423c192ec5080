"""Numbers to colours: inferno for maps without signs, blue-white-red for maps with them."""

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# Control points at equal distances, perceptually uniform; in between, colours are interpolated.
_INFERNO = (
    (0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84),
    (221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70), (252, 255, 164),
)  # fmt: skip
_BLUE_WHITE_RED = (
    (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247),
    (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31),
)  # fmt: skip
_CLIP_PERCENTILE = 99.0  # This percentile gets the strongest colour; single pixels lie far above the rest.


def signed(values: Floats) -> bool:
    """Whether the map has signs to show."""
    return bool(values.size and values.min() < 0)


def scaled(values: Floats) -> Floats:
    """The map in [0, 1], or in [-1, 1] around zero where it has signs; the extreme percent is clipped."""
    values = np.nan_to_num(values.astype(np.float64))
    low = 0.0 if signed(values) else float(values.min(initial=np.inf))
    values = values - low
    strongest = float(np.percentile(np.abs(values), _CLIP_PERCENTILE)) if values.size else 0.0
    strongest = strongest or float(np.abs(values).max(initial=0.0))
    return np.clip(values / strongest, -1, 1) if strongest else np.zeros_like(values)


def coloured(level: Floats, *, diverging: bool) -> Bytes:
    """Levels in [0, 1], or in [-1, 1] if diverging, as RGB: [H, W] -> [H, W, 3]."""
    table = np.array(_BLUE_WHITE_RED if diverging else _INFERNO, dtype=np.float64)
    place = (level + 1) / 2 if diverging else level
    ticks = np.linspace(0, 1, len(table))
    channels = [np.interp(place, ticks, table[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
