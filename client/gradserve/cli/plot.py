"""Curves over steps, drawn small."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from gradserve.made import Curve

_SIZE, _MARGIN = (480, 240), 14
_COLOURS = ("#3b6ef5", "#e07a1f", "#2a9d63", "#c2418c")


def curves(lines: Mapping[str, Curve]) -> Image.Image:
    """Every curve from its lowest to its highest value, with its name and these two: shapes, not sizes, compare."""
    paper = Image.new("RGB", _SIZE, "white")
    pen = ImageDraw.Draw(paper)
    width, height = _SIZE
    top = _MARGIN + 14 * len(lines)
    for place, (name, values) in enumerate(lines.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        low, high = float(np.min(values)), float(np.max(values))
        across = np.linspace(_MARGIN, width - _MARGIN, len(values))
        level = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
        down = height - _MARGIN - level * (height - top - _MARGIN)
        points = list(zip(across.tolist(), down.tolist(), strict=True))
        if len(points) > 1:
            pen.line(points, fill=colour, width=2)
        pen.text((_MARGIN, _MARGIN / 2 + 14 * place), f"{name}  {low:.4g} to {high:.4g}", fill=colour)
    return paper
