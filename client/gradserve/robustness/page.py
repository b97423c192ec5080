"""A page of pictures in one HTML file: sections of stories, a story being one picture and what was made of it."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from PIL import Image

_MAX_SIDE = 480  # Pixels of a picture's longer side on the page.
_MAX_CRISP_SIDE = 64  # Pictures up to this side are shown crisp and stored without loss.


@dataclass(frozen=True)
class Figure:
    """Pictures side by side with a title."""

    title: str
    pictures: Sequence[Image.Image] = ()
    value: str = ""
    facts: Sequence[str] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Story:
    """One picture, what the model says it is, and the figures made of it."""

    title: str
    picture: Image.Image
    bars: Sequence[tuple[str, float]] = ()
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Table:
    """Rows of texts; a float is a share, drawn as a bar. `states`: the verdict on each row, in whose colour it is."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    states: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading."""

    title: str
    lead: str
    stories: Sequence[Story]
    facts: Sequence[str] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Verdict:
    """What the page says above all, and its colour: "passed", "failed" or "not_measured"."""

    text: str
    state: str


def html(
    title: str,
    lead: str,
    sections: Sequence[Section],
    *,
    verdict: Verdict | None = None,
    origin: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The whole page, with all its pictures inside. `origin`: names and values of what the page comes from."""
    import jinja2  # Here, so that other commands need not wait for it.

    loader = jinja2.PackageLoader("gradserve", "robustness")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["image"] = _encoded
    environment.tests["share"] = lambda value: isinstance(value, float)
    return environment.get_template("page.html").render(
        title=title, lead=lead, sections=sections, verdict=verdict, origin=origin
    )


def _encoded(picture: Image.Image) -> dict[str, object]:
    """The picture as the page has it: the bytes of a file in base64, and how it is shown."""
    picture = picture.copy()
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    crisp = max(picture.size) <= _MAX_CRISP_SIDE
    file = io.BytesIO()
    if crisp:
        picture.save(file, "PNG")
    else:
        picture.convert("RGB").save(file, "JPEG", quality=86, subsampling=0)
    data = base64.b64encode(file.getvalue()).decode()
    return {"data": data, "kind": "png" if crisp else "jpeg", "crisp": crisp, "ratio": picture.width / picture.height}
