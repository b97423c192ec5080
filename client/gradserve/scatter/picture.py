"""A map as a picture: points in the colours of their classes, pictures that were sent as rings."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from gradserve import images
from gradserve.results.project import ProjectedPicture, ProjectedPoint, Projection
from gradserve.scatter import palette

_SIDE, _LEGEND, _MARGIN = 1000, 220, 24  # Pixels.
_OVERSAMPLING = 2  # The map is drawn this many times as large and then made smaller, so that edges are smooth.
_POINT, _RING = 3, 7  # Radii.
_LINE = 20  # Height of a line of the legend.
_MAX_NAMES = (_SIDE - 2 * _MARGIN) // _LINE


def drawn(projection: Projection) -> Image.Image:
    """The map with its legend."""
    shown: list[ProjectedPoint | ProjectedPicture] = [*projection.points, *projection.pictures]
    paper = Image.new("RGB", ((_SIDE + _LEGEND) * _OVERSAMPLING, _SIDE * _OVERSAMPLING), "white")
    pen = ImageDraw.Draw(paper)
    colours = palette.colours(len(projection.classes))
    corner, scale = _frame([each.x for each in shown], [each.y for each in shown])
    for i, each in enumerate(shown):
        x = (_MARGIN + (each.x - corner[0]) * scale) * _OVERSAMPLING
        y = (_SIDE - _MARGIN - (each.y - corner[1]) * scale) * _OVERSAMPLING
        colour = palette.NO_LABEL if each.label is None else colours[each.label]
        sent = i >= len(projection.points)
        radius = (_RING if sent else _POINT) * _OVERSAMPLING
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(box, fill=colour, outline="black" if sent else None, width=2 * _OVERSAMPLING)
    paper = paper.resize((_SIDE + _LEGEND, _SIDE), Image.Resampling.LANCZOS)
    present = {each.label for each in shown if each.label is not None}
    _draw_legend(paper, projection.classes, sorted(present), colours)
    return paper


def _frame(xs: Sequence[float], ys: Sequence[float]) -> tuple[tuple[float, float], float]:
    """The lower left corner, and pixels to a unit, so that all places fit and both axes have one scale."""
    left, right, low, high = min(xs, default=0), max(xs, default=1), min(ys, default=0), max(ys, default=1)
    extent = max(right - left, high - low) or 1.0
    corner = ((left + right - extent) / 2, (low + high - extent) / 2)
    return corner, (_SIDE - 2 * _MARGIN) / extent


def _draw_legend(paper: Image.Image, classes: Sequence[str], present: Sequence[int], colours: Sequence[str]) -> None:
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(13)
    for place, label in enumerate(present[:_MAX_NAMES]):
        y = _MARGIN + place * _LINE
        pen.rectangle((_SIDE + 4, y + 2, _SIDE + 14, y + 12), fill=colours[label])
        text = classes[label]
        if place == _MAX_NAMES - 1 and len(present) > _MAX_NAMES:
            text = f"and {len(present) - place - 1} more"
        pen.text((_SIDE + 22, y), images.fitting(text, _LEGEND - 30, font), "black", font)
