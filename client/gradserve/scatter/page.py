"""A page with a map that one can zoom into: one file, with its data, script and small pictures inside."""

import json
from dataclasses import asdict
from typing import Any

from markupsafe import Markup

from gradserve import pages
from gradserve.load import charts
from gradserve.results.project import Projection
from gradserve.scatter import palette, sprites

_DIGITS = 5  # Of a place on the map.


def html(projection: Projection) -> str:
    """The whole page."""
    title = f"{projection.method.upper().replace('TSNE', 't-SNE')} of {projection.layer}"
    values = {
        "title": title,
        "lead": _lead(projection),
        "notes": _notes(projection),
        "data": _json(_data(projection)),
        "chart": separability(projection),
        "size": charts,
    }
    return pages.rendered("scatter", values)


def _lead(projection: Projection) -> str:
    shown, model = len(projection.points), projection.provenance.model
    own = f"{shown} of the {projection.total} pictures of the index of {model}"
    more = f", and {len(projection.pictures)} more" if projection.pictures else ""
    return f"{own}{more}: their features at {projection.layer} in two dimensions."


def _notes(projection: Projection) -> list[str]:
    notes = []
    if projection.explained:
        shares = " and ".join(f"{share:.1%}" for share in projection.explained)
        notes.append(f"The axes explain {shares} of the variance.")
    if projection.method == "tsne":
        notes.append(
            "In a t-SNE only nearness has a meaning: the sizes of groups and the distances between them have none."
        )
    if not projection.separability_pictures:
        notes.append("There is no curve of separability, since the index has no labels or a single one.")
    return notes


def separability(projection: Projection) -> charts.Chart | None:
    """The accuracy of the neighbours by layer; None where there are no accuracies."""
    layers = [each for each in projection.layers if each.accuracy is not None]
    if not layers:
        return None
    pictures, neighbours = projection.separability_pictures, projection.separability_neighbours
    series = {
        "accuracy": [each.accuracy or 0.0 for each in layers],
        "labels shuffled": [each.shuffled_accuracy or 0.0 for each in layers],
    }
    title = f"Separability: {neighbours} nearest neighbours, over {pictures} pictures"
    return charts.by_name(title, "layer", "accuracy", [each.name for each in layers], series)


def _data(projection: Projection) -> dict[str, Any]:
    """What the script draws."""
    points, pictures = projection.points, projection.pictures
    small = [each.picture() for each in points] + [each.picture() for each in pictures]
    return {
        "points": [[*_place(each.x, each.y), -1 if each.label is None else each.label, each.name] for each in points],
        "pictures": [
            [
                *_place(each.x, each.y),
                -1 if each.label is None else each.label,
                each.name,
                f"{each.agreement:.0%} of {len(each.neighbours)} neighbours" if each.label is not None else "",
            ]
            for each in pictures
        ],
        "classes": projection.classes,
        "colours": palette.colours(len(projection.classes)),
        "no_label": palette.NO_LABEL,
        "sheet": asdict(sprites.sheet(small)),
    }


def _place(x: float, y: float) -> tuple[float, float]:
    return float(f"{x:.{_DIGITS}g}"), float(f"{y:.{_DIGITS}g}")


def _json(value: Any) -> Markup:
    """JSON that may stand in a script of a page: no text in it ends the script."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
