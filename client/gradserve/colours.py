"""Numbers to colours: by default inferno for maps without signs, blue-white-red (RdBu_r) for maps with them."""

from typing import Any, Literal

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

Colormap = Literal["inferno", "magma", "plasma", "viridis", "gray", "RdBu_r"]

# Control points at equal distances, of matplotlib's colormaps of these names; in between, colours are interpolated.
_POINTS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "inferno": (
        (0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84),
        (221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70), (252, 255, 164),
    ),
    "magma": (
        (0, 0, 4), (20, 14, 54), (59, 15, 112), (100, 26, 128), (140, 41, 129), (183, 55, 121),
        (222, 73, 104), (247, 112, 92), (254, 159, 109), (254, 207, 146), (252, 253, 191),
    ),
    "plasma": (
        (13, 8, 135), (65, 4, 157), (106, 0, 168), (143, 13, 164), (177, 42, 144), (204, 71, 120),
        (225, 100, 98), (242, 132, 75), (252, 166, 54), (252, 206, 37), (240, 249, 33),
    ),
    "viridis": (
        (68, 1, 84), (72, 36, 117), (65, 68, 135), (53, 95, 141), (42, 120, 142), (33, 145, 140),
        (34, 168, 132), (68, 191, 112), (122, 209, 81), (189, 223, 38), (253, 231, 37),
    ),
    "gray": ((0, 0, 0), (255, 255, 255)),
    "RdBu_r": (
        (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247),
        (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31),
    ),
}  # fmt: skip
_DIVERGING = "RdBu_r"  # The one whose middle stands for zero.
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


def checked(colormap: Colormap | None) -> Colormap | None:
    """The name of a colormap, or None for the one that fits. Raises ValueError for another name."""
    if colormap is not None and colormap not in _POINTS:
        raise ValueError(f"colormap must be one of {', '.join(_POINTS)}; not {colormap!r}")
    return colormap


def coloured(level: Floats, *, signed: bool, colormap: Colormap | None = None) -> Bytes:
    """Levels in [0, 1], or in [-1, 1] if signed, as RGB: [H, W] -> [H, W, 3].

    The colormap is RdBu_r for signed levels and else inferno, unless another is named. Zero is in the middle of the
    colormap where the levels are signed, and always in that of RdBu_r; else it is at the beginning. Raises ValueError.
    """
    name = checked(colormap) or (_DIVERGING if signed else "inferno")
    table = np.array(_POINTS[name], dtype=np.float64)
    place = (level + 1) / 2 if signed or name == _DIVERGING else level
    ticks = np.linspace(0, 1, len(table))
    channels = [np.interp(place, ticks, table[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
