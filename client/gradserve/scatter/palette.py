"""A colour for each class."""

import colorsys
from collections.abc import Sequence

# Colours that are told apart on light and on dark paper.
_DISTINCT_COLOURS = (
    "#3b6ef5", "#e0601f", "#2a9d63", "#c2418c", "#8e5bd0", "#b08900", "#17a2b8", "#d1495b", "#8a5a2b", "#6b8e23",
)  # fmt: skip
NO_LABEL = "#8a8f98"
_GOLDEN = 0.618034  # Turns between the hues of successive classes, so that no two nearby ones are alike.


def colours(count: int) -> list[str]:
    """A colour for each of so many classes, written as #rrggbb."""
    if count <= len(_DISTINCT_COLOURS):
        return list(_DISTINCT_COLOURS[:count])
    return [_hex(colorsys.hls_to_rgb(i * _GOLDEN % 1, (0.42, 0.55, 0.66)[i % 3], 0.62)) for i in range(count)]


def _hex(shares: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * each):02x}" for each in shares)
