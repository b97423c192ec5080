"""A page of pictures in one HTML file: sections of stories, a story being one picture and what was made of it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from PIL import Image

CSS = files(__package__).joinpath("page.css").read_text()
_MAX_SIDE = 480  # Pixels of a picture's longer side on the page.
_MAX_CRISP_SIDE = 64  # Pictures up to this side are shown crisp and stored without loss.


@dataclass(frozen=True)
class Figure:
    """Pictures side by side with a title, or the reason why there are none."""

    title: str
    pictures: Sequence[Image.Image] = ()
    value: str = ""
    facts: Sequence[str] = ()
    warnings: Sequence[str] = ()
    refusal: str = ""


@dataclass(frozen=True)
class Story:
    """One picture, what the model says it is, and the figures made of it."""

    title: str
    picture: Image.Image
    bars: Sequence[tuple[str, float]] = ()
    facts: Sequence[str] = ()
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Table:
    """Rows of texts; a float is a share, drawn as a bar."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading."""

    title: str
    lead: str
    stories: Sequence[Story]
    facts: Sequence[str] = ()
    tables: Sequence[Table] = ()


def html(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page, with all its pictures inside."""
    links = "".join(f'<a href="#s{i}">{escape(section.title)}</a>' for i, section in enumerate(sections))
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><header><h1>{escape(title)}</h1><p>{escape(lead)}</p><nav>{links}</nav></header>\n"
        f"<main>{body}</main></body></html>\n"
    )


def _section(number: int, section: Section) -> str:
    stories = "".join(map(_story, section.stories))
    return (
        f'<section id="s{number}"><h2>{escape(section.title)}</h2><p class="lead">{escape(section.lead)}</p>'
        f"{_facts(section.facts)}{''.join(map(_table, section.tables))}{stories}</section>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return f'<table class="sheet"><tr>{head}</tr>{rows}</table>'


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    return f'<td class="share"><span class="bar"><i style="width:{100 * value:.1f}%"></i></span>{value:.1%}</td>'


def _story(story: Story) -> str:
    bars = "".join(
        f'<tr><td>{escape(name)}</td><td class="bar"><i style="width:{100 * share:.1f}%"></i></td>'
        f"<td>{share:.1%}</td></tr>"
        for name, share in story.bars
    )
    return (
        f'<article><aside><div class="pictures">{_image(story.picture, story.title)}</div><h3>{escape(story.title)}'
        f"</h3><table>{bars}</table>{_facts(story.facts)}</aside>"
        f'<div class="figures">{"".join(map(_figure, story.figures))}</div></article>\n'
    )


def _figure(figure: Figure) -> str:
    pictures = "".join(_image(picture, figure.title) for picture in figure.pictures)
    inside = f'<div class="pictures">{pictures}</div>' if pictures else ""
    value = f"<b>{escape(figure.value)}</b>" if figure.value else ""
    warnings = "".join(f'<p class="warning">{escape(text)}</p>' for text in figure.warnings)
    refusal = f'<p class="refusal">{escape(figure.refusal)}</p>' if figure.refusal else ""
    return (
        f"<figure>{inside}<figcaption><h4>{escape(figure.title)}{value}</h4>{_facts(figure.facts)}"
        f"{warnings}{refusal}</figcaption></figure>"
    )


def _facts(facts: Sequence[str]) -> str:
    return f'<p class="facts">{"".join(f"<span>{escape(fact)}</span>" for fact in facts)}</p>' if facts else ""


def _image(picture: Image.Image, name: str) -> str:
    picture = picture.copy()
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    crisp = max(picture.size) <= _MAX_CRISP_SIDE
    file = io.BytesIO()
    if crisp:
        picture.save(file, "PNG")
    else:
        picture.convert("RGB").save(file, "JPEG", quality=86, subsampling=0)
    data = base64.b64encode(file.getvalue()).decode()
    kind, look = ("png", ' class="crisp"') if crisp else ("jpeg", "")
    grow = f"flex:{picture.width / picture.height:.4f}"  # Pictures in a row get the same height.
    return f'<img{look} style="{grow}" alt="{escape(name)}" src="data:image/{kind};base64,{data}">'
