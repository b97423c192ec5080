"""The page and the file about decisions by shape and by texture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from gradserve.load import charts
from gradserve.robustness import page
from gradserve.shape.figures import by_shape, curve, document
from gradserve.shape.run import Conflict, Judged, ShapeRun
from gradserve.shape.sources import Source

RESULTS, PAGE = "results.json", "index.html"
_LEAD = (
    "Each picture has the shape of one class and the texture of another. Of the decisions for one of the two, this is "
    "the share of those for the shape, with its 95 % interval, where a network chooses among the classes of the set. "
    "The share rises with the weight of the content: compare networks on these files, not with shares of other recipes."
)
_COLUMNS = (
    *("network", "content weight", "shape share", "95 % interval"),
    *("shape", "texture", "neither", "among all classes"),
)


def write(out: Path, run: ShapeRun, judged: Sequence[Judged], facts: Mapping[str, Any], shown: int) -> dict[str, Any]:
    """Writes the file and the page into the folder of the pictures; returns what is in the file."""
    result = {**run.settings(), **facts, "judges": [document(each, run.conflicts) for each in judged]}
    (out / RESULTS).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    known = [
        f"{each.judge.card.name} knows {each.known_shapes} of {len(run.contents)} contents and "
        f"{each.known_textures} of {len(run.textures)} textures as they are"
        for each in judged
    ]
    tables = [page.Table(_COLUMNS, _rows(judged, run.conflicts))]
    sections = [
        page.Section("Shape share", _LEAD, (), known, tables, [_chart(judged, run.conflicts)]),
        page.Section("Pictures", "", [_story(out, run, judged, *pair) for pair in _pairs(run.conflicts)[:shown]]),
    ]
    title = "Shape or texture: " + ", ".join(each.judge.card.name for each in judged)
    lead = f"{len(run.conflicts)} pictures, made by {run.styler.name}, which does not judge"
    origin = {"styler": f"{run.styler.name} {run.styler.weights_digest[:12]}", "steps": str(run.recipe.steps)}
    origin |= {"size": f"{run.recipe.size} px", "seed": str(run.recipe.seed)}
    origin |= {each.judge.card.name: each.judge.card.weights_digest[:12] for each in judged}
    (out / PAGE).write_text(page.html(title, lead, sections, origin=origin), encoding="utf-8")
    return result


def _rows(judged: Sequence[Judged], conflicts: Sequence[Conflict]) -> list[list[str | float]]:
    rows = list[list[str | float]]()
    for each in judged:
        for point in curve(each, conflicts):
            few, every = point.of_set, point.of_all
            counts = [str(few.shape), str(few.texture), str(few.neither)]
            others = f"{every.shape} by shape, {every.texture} by texture, {every.neither} by neither"
            share: str | float = few.share.value if few.share.of else "-"
            low, high = few.share.interval
            interval = f"{low:.1%} to {high:.1%}"
            rows.append([each.judge.card.name, f"{point.weight:g}", share, interval, *counts, others])
    return rows


def _chart(judged: Sequence[Judged], conflicts: Sequence[Conflict]) -> charts.Chart:
    series = {
        each.judge.card.name: [
            (point.weight, point.of_set.share.value, *point.of_set.share.interval)
            for point in curve(each, conflicts)
            if point.of_set.share.of
        ]
        for each in judged
    }
    return charts.shares("Decisions by shape", "weight of the content", "share", series)


def _pairs(conflicts: Sequence[Conflict]) -> list[tuple[Source, Source]]:
    """Contents with textures, another content and another texture from one to the next."""
    textures = list(dict.fromkeys(each.texture.name for each in conflicts))
    contents = list(dict.fromkeys(each.shape.name for each in conflicts))
    pairs = {(each.shape.name, each.texture.name): (each.shape, each.texture) for each in conflicts}

    def turn(names: tuple[str, str]) -> tuple[int, int]:
        row, column = contents.index(names[0]), textures.index(names[1])
        return (column - row) % len(textures), row

    return [pairs[names] for names in sorted(pairs, key=turn)]


def _story(out: Path, run: ShapeRun, judged: Sequence[Judged], shape: Source, texture: Source) -> page.Story:
    figures = [page.Figure(f"texture: {texture.class_name}", [Image.fromarray(texture.pixels)])]
    for each in run.conflicts:
        if (each.shape, each.texture) == (shape, texture):
            facts = [_said(one, each) for one in judged]
            figures.append(page.Figure(f"weight {each.weight:g}", [_opened(out / each.file)], facts=facts))
    return page.Story(f"shape: {shape.class_name}", Image.fromarray(shape.pixels), (), figures)


def _said(judged: Judged, conflict: Conflict) -> str:
    name = judged.decisions[conflict.file].best_of_set
    return f"{judged.judge.card.name}: {name or 'no class of the set'} ({by_shape(conflict, name)})"


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")
