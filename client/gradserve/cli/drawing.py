"""Pictures that the commands draw: contact sheets of training examples, and curves over steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gradserve import images
from gradserve.messages import inputs
from gradserve.results.exemplars import ChannelExemplars, ExemplarPatch, Exemplars
from gradserve.results.influence import Influence, Suspects, TrainingExample
from gradserve.results.pictures import Curve

_SIDE, _GAP, _TEXT = 112, 12, 34  # Pixels of a picture's side, of a gap, of two text lines.
_INK, _HELPS, _HARMS = (40, 44, 52), (33, 102, 172), (178, 24, 43)
_EDGE = (190, 194, 200)  # Around pictures, which may be as white as the paper.
_PER_ROW = 10
_TITLE = 20  # Pixels of a line of titles.

Entry = tuple[Image.Image | None, str, str, tuple[int, int, int]]
_BLANK: Entry = (None, "", "", _INK)


def influence(result: Influence, photo: Path) -> Image.Image:
    """The test picture, then a row of helpful and a row of harmful examples."""
    test = (images.opened(inputs.message(photo)), result.label_name, f"{result.goal} {result.value:.3g}", _INK)
    rows: list[list[Entry]] = [[test]]
    for examples, colour in ((result.helpful, _HELPS), (result.harmful, _HARMS)):
        rows += _rows([_entry(each, _score(each), colour) for each in examples])
    return _draw_sheet(rows)


def suspects(result: Suspects) -> Image.Image:
    """The examples in their order; a prediction is red where it is not the label."""
    colours = {True: _INK, False: _HARMS}
    entries = [
        _entry(each, f"predicted {each.predicted_name}", colours[each.predicted_name == each.label_name])
        for each in result
    ]
    return _draw_sheet(_rows(entries))


def exemplars(result: Exemplars, maximized: Sequence[Image.Image] = ()) -> Image.Image:
    """A row for each channel: its picture of `maximized`, if there are such, its exemplars, and its spectrum."""
    rows = []
    for i, each in enumerate(result):
        row: list[Entry] = [(None, f"channel {each.channel}", _purity(each), _INK)]
        row += [(maximized[i], "", "", _INK)] if maximized else []
        row += [_patch(patch) for patch in each.exemplars]
        row += [_BLANK, *map(_patch, each.spectrum)] if each.spectrum else []
        rows.append(row)
    first = 2 if maximized else 1
    titles = {0: f"{result.layer} of {result.provenance.model}", first: "what it found"}
    titles |= {1: "what it looks for"} if maximized else {}
    if len(result) and result.channels[0].spectrum:
        titles[first + len(result.channels[0].exemplars) + 1] = "from most to least"
    return _draw_sheet(rows, titles)


def _purity(each: ChannelExemplars) -> str:
    return "" if each.purity is None else f"purity {each.purity:.0%}"


def _patch(patch: ExemplarPatch) -> Entry:
    return patch.image, patch.label_name or patch.name, f"{patch.value:.3g}", _INK


def _score(each: TrainingExample) -> str:
    return f"{each.change:+.2g}" if each.similarity is None else f"{each.similarity:.3f}"


def _entry(each: TrainingExample, text: str, colour: tuple[int, int, int]) -> Entry:
    return each.picture(), each.label_name, text, colour


def _rows(entries: Sequence[Entry]) -> list[list[Entry]]:
    return [list(entries[i : i + _PER_ROW]) for i in range(0, len(entries), _PER_ROW)]


def _draw_sheet(rows: Sequence[Sequence[Entry]], titles: Mapping[int, str] | None = None) -> Image.Image:
    """The entries in rows; a title stands above its column and may be wider."""
    columns = max(map(len, rows), default=1)
    step, height, above = _SIDE + _GAP, _SIDE + _TEXT + _GAP, _GAP + (_TITLE if titles else 0)
    page = Image.new("RGB", (columns * step + _GAP, len(rows) * height + above), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for column, title in (titles or {}).items():
        draw.text((_GAP + column * step, _GAP), title, _INK, font)
    for y, row in enumerate(rows):
        for x, (picture, label, text, colour) in enumerate(row):
            left, top = _GAP + x * step, above + y * height
            if picture is not None:
                fitted = _fit(picture)
                page.paste(fitted, (left, top))
                draw.rectangle((left - 1, top - 1, left + fitted.width, top + fitted.height), outline=_EDGE)
            draw.text((left, top + _SIDE + 3), images.fitting(label, _SIDE, font), _INK, font)
            draw.text((left, top + _SIDE + 18), images.fitting(text, _SIDE, font), colour, font)
    return page


def _fit(picture: Image.Image) -> Image.Image:
    scale = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.BICUBIC)


_CURVES_SIZE, _CURVES_MARGIN = (480, 240), 14
_COLOURS = ("#3b6ef5", "#e07a1f", "#2a9d63", "#c2418c")


def curves(lines: Mapping[str, Curve]) -> Image.Image:
    """Curves with their names, each stretched from its lowest to its highest value, so that shapes can be compared."""
    paper = Image.new("RGB", _CURVES_SIZE, "white")
    pen = ImageDraw.Draw(paper)
    width, height = _CURVES_SIZE
    top = _CURVES_MARGIN + 14 * len(lines)
    for place, (name, values) in enumerate(lines.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        low, high = float(np.min(values)), float(np.max(values))
        across = np.linspace(_CURVES_MARGIN, width - _CURVES_MARGIN, len(values))
        level = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
        down = height - _CURVES_MARGIN - level * (height - top - _CURVES_MARGIN)
        points = list(zip(across.tolist(), down.tolist(), strict=True))
        if len(points) > 1:
            pen.line(points, fill=colour, width=2)
        pen.text((_CURVES_MARGIN, _CURVES_MARGIN / 2 + 14 * place), f"{name}  {low:.4g} to {high:.4g}", fill=colour)
    return paper
