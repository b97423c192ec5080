"""The demo's page in one HTML file: sections of figures in grids, with all pictures inside."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from gradserve import images

_MAX_SIDE = 560  # Pixels of a picture's longer side on the page.
_MAX_CRISP_SIDE = 64  # Pictures up to this side are shown crisp and stored without loss.
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
    import jinja2  # Here, so that other commands need not wait for it.

    loader = jinja2.PackageLoader("gradserve", "cli/demo")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["embedded"] = _embedded
    legends = {name: (images.heatmap(ramp), low, high) for name, (ramp, low, high) in LEGENDS.items()}
    return environment.get_template("page.html").render(
        title=title, lead=lead, sections=sections, footer=footer, legends=legends
    )


def _embedded(picture: Image.Image) -> dict[str, str]:
    """The picture as a data URL, and how it is shown."""
    picture = picture.copy()
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    crisp = max(picture.size) <= _MAX_CRISP_SIDE
    file = io.BytesIO()
    if crisp:
        picture.save(file, "PNG")
    else:
        picture.convert("RGB").save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    kind = "png" if crisp else "jpeg"
    return {"url": f"data:image/{kind};base64,{data}", "look": "crisp" if crisp else "smooth"}
