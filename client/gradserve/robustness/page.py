"""A page of pictures in one HTML file: sections of stories, a story being one picture and what was made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from PIL import Image

from gradserve import pages
from gradserve.load import charts
from gradserve.load.charts import Chart

_MAX_SIDE = 480  # Pixels of a picture's longer side on the page.


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
    charts: Sequence[Chart] = ()


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
    values = {"title": title, "lead": lead, "sections": sections, "verdict": verdict, "origin": origin, "size": charts}
    return pages.rendered("robustness", values, _MAX_SIDE)
