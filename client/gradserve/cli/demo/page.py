"""The demo's page in one HTML file: sections of figures in grids, with all pictures inside."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from gradserve import images, pages

_MAX_SIDE = 560  # Pixels of a picture's longer side on the page.
_RAMP = np.tile(np.linspace(0, 1, 96, dtype=np.float32), (12, 1))
LEGENDS = {
    "strength": (_RAMP, "hardly matters", "matters most"),
    "sign": (2 * _RAMP - 1, "speaks against the class", "speaks for it"),
}


@dataclass(frozen=True)
class Mark:
    """A verdict in a word or two. kind: "good", "bad" or "open", which is its colour."""

    text: str
    kind: str


@dataclass(frozen=True)
class Figure:
    """Pictures side by side, with what they are.

    value: the answer in figures. bars: names and shares, 0 to 1. inset: a second picture, small in a corner.
    """

    title: str
    pictures: Sequence[Image.Image] = ()
    text: str = ""
    value: str = ""
    mark: Mark | None = None
    bars: Sequence[tuple[str, float]] = ()
    warnings: Sequence[str] = ()
    inset: Image.Image | None = None


@dataclass(frozen=True)
class Grid:
    """Figures, so many side by side on a wide screen."""

    figures: Sequence[Figure]
    title: str = ""
    text: str = ""
    columns: int = 4


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading. legend: names in LEGENDS of the colours that are used."""

    title: str
    lead: str
    grids: Sequence[Grid]
    legend: Sequence[str] = ()


def html(title: str, lead: str, sections: Sequence[Section], footer: str = "") -> str:
    """The whole page, which refers to no other file."""
    legends = {name: (images.heatmap(ramp), low, high) for name, (ramp, low, high) in LEGENDS.items()}
    values = {"title": title, "lead": lead, "sections": sections, "footer": footer, "legends": legends}
    return pages.rendered("cli/demo", values, _MAX_SIDE)
