"""`gradserve project`: pictures on a map of an indexed data set, and how well each layer separates its classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.table import Table

from gradserve.cli import options, output
from gradserve.messages import fields
from gradserve.messages.project import METHOD
from gradserve.parameters.common import Preprocess, Priority
from gradserve.parameters.project import ProjectionMethod
from gradserve.results.project import KINDS, Projection

DEFAULT_POINTS = 5000  # Indexed pictures on a map that is saved.
Photos = Annotated[
    list[Path] | None, typer.Argument(help="Picture files to place, at most 512.", exists=True, dir_okay=False)
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help=f"File for the map: {', '.join(KINDS)}.", rich_help_panel="Output"),
]


@dataclass(frozen=True)
class Map:
    """The features, the method that makes two numbers of them, and what is shown beside the pictures."""

    layer: Annotated[str, typer.Option("--layer", help="A layer of the index; its last one if left out.")] = ""
    method: Annotated[
        str, options.one_of("--method", names=fields.choices(METHOD), text="How features become two numbers: {}.")
    ] = "pca"
    neighbours: Annotated[
        int, typer.Option("--neighbours", min=1, max=100, help="How many nearest pictures of the index are told.")
    ] = 10
    points: Annotated[
        int | None,
        typer.Option(
            "--points",
            min=0,
            max=10_000,
            help=f"How many pictures of the index are on the map; {DEFAULT_POINTS} with --out if left out.",
        ),
    ] = None
    no_thumbnails: Annotated[
        bool, typer.Option("--no-thumbnails", help="Leave the small pictures out of the page.")
    ] = False


@dataclass(frozen=True)
class ProjectRequest:
    """What the request carries."""

    preprocess: options.Preprocess = "model_default"
    priority: options.Priority = "interactive"
    time_budget: options.TimeBudget = None
    alone: options.Alone = False


@options.grouped
def project(
    photos: Photos = None,
    *,
    chosen: Map,
    model: options.Model = "",
    out: Out = None,
    request: ProjectRequest,
    connection: options.Connection,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Pictures on a map of an indexed data set, and how well each layer separates its classes.

    The model must be served with an index of pictures: `gradserve index --kind pictures` builds one.

    Example: `gradserve project cat.jpg --model tiny --layer layer4 --out map.html`

    Example: `gradserve project --model tiny`
    """
    if out is not None and out.suffix.lower() not in KINDS:
        raise ValueError(f"--out is for a map, which is saved as one of {', '.join(KINDS)}, not {out.name}")
    points = chosen.points if chosen.points is not None else DEFAULT_POINTS if out is not None else 0
    with connection.client(timeout) as client, output.waiting("project"):
        result = client.project(
            photos or None,
            layer=chosen.layer,
            method=cast(ProjectionMethod, chosen.method),
            neighbours=chosen.neighbours,
            points=points,
            thumbnails=out is not None and out.suffix.lower() == ".html" and not chosen.no_thumbnails,
            model=model,
            preprocess=cast(Preprocess, request.preprocess),
            priority=cast(Priority, request.priority),
            time_budget=request.time_budget,
            alone=request.alone,
        )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        result.save(out)
    output.warn(result.provenance.warnings)
    if as_json:
        output.print_json({**result.to_dict(), **({"saved": str(out)} if out else {})})
        return
    _print(result)
    if out:
        output.out().print(f"saved as {out}")


def _print(result: Projection) -> None:
    if result.pictures:
        output.out().print(_pictures(result))
    output.out().print(_layers(result))
    if result.separability_pictures:
        by, over = result.separability_neighbours, result.separability_pictures
        output.out().print(f"accuracy by the {by} nearest neighbours, over {over} pictures of the index")
    else:
        output.out().print("no separability: the index has no labels, or a single one")


def _pictures(result: Projection) -> Table:
    table = Table(
        title=f"{result.method} of {result.layer}  ({result.provenance.model})", title_justify="left", box=None
    )
    for column in ("picture", "x", "y", "class by neighbours", "share", "nearest", "distance"):
        table.add_column(column, justify="right" if column in ("x", "y", "share", "distance") else "left")
    for each in result.pictures:
        share = "" if each.label is None else f"{each.agreement:.0%}"
        nearest = each.neighbours[0]
        name = f"{nearest.name} ({nearest.label_name})" if nearest.label_name else nearest.name
        place = (f"{each.x:.4g}", f"{each.y:.4g}")
        table.add_row(each.name, *place, each.label_name, share, name, f"{nearest.distance:.4g}")
    return table


def _layers(result: Projection) -> Table:
    table = Table(title=f"index of {result.total} pictures", title_justify="left", box=None)
    for column in ("layer", "channels", "accuracy", "labels shuffled", "t-SNE"):
        table.add_column(column, justify="left" if column in ("layer", "t-SNE") else "right")
    for each in result.layers:
        accuracies = (each.accuracy, each.shuffled_accuracy)
        figures = ("" if figure is None else f"{figure:.1%}" for figure in accuracies)
        table.add_row(each.name, str(each.channels), *figures, "yes" if each.has_tsne else "")
    return table
