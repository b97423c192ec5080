"""Contact sheets: training examples side by side with what is said of them."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from gradserve import images
from gradserve.influences import Influence, Suspects, TrainingExample

_SIDE, _GAP, _TEXT = 112, 12, 34  # pixels of a picture, between pictures, of the two lines below
_INK, _HELPS, _HARMS = (40, 44, 52), (33, 102, 172), (178, 24, 43)
_PER_ROW = 10

Entry = tuple[Image.Image | None, str, str, tuple[int, int, int]]


def influence(found: Influence, photo: Path) -> Image.Image:
    """The test picture, then a row of helpful and a row of harmful examples."""
    test = (images.opened(images.message(photo)), found.label_name, f"{found.goal} {found.value:.3g}", _INK)
    rows: list[list[Entry]] = [[test]]
    for examples, colour in ((found.helpful, _HELPS), (found.harmful, _HARMS)):
        rows += _rows([_entry(each, _score(each), colour) for each in examples])
    return _drawn(rows)


def suspects(found: Suspects) -> Image.Image:
    """The examples in their order."""
    return _drawn(_rows([_entry(each, f"predicted {each.predicted_name}", _HARMS) for each in found]))


def _score(each: TrainingExample) -> str:
    return f"{each.change:+.2g}" if each.similarity is None else f"{each.similarity:.3f}"


def _entry(each: TrainingExample, text: str, colour: tuple[int, int, int]) -> Entry:
    return each.picture(), each.label_name, text, colour


def _rows(entries: Sequence[Entry]) -> list[list[Entry]]:
    return [list(entries[i : i + _PER_ROW]) for i in range(0, len(entries), _PER_ROW)]


def _drawn(rows: Sequence[Sequence[Entry]]) -> Image.Image:
    columns = max(map(len, rows), default=1)
    step, height = _SIDE + _GAP, _SIDE + _TEXT + _GAP
    page = Image.new("RGB", (columns * step + _GAP, len(rows) * height + _GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for y, row in enumerate(rows):
        for x, (picture, label, text, colour) in enumerate(row):
            left, top = _GAP + x * step, _GAP + y * height
            if picture is not None:
                page.paste(_fitted(picture), (left, top))
            draw.text((left, top + _SIDE + 3), label[:18], _INK, font)
            draw.text((left, top + _SIDE + 18), text[:18], colour, font)
    return page


def _fitted(picture: Image.Image) -> Image.Image:
    scale = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.BICUBIC)
