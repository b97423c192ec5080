"""`gradserve explain`: maps of what a model's score depends on."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.table import Table

from gradserve.cli import options, output, parse
from gradserve.colours import Colormap
from gradserve.messages import fields
from gradserve.messages.explain import EXPLAIN_METHOD
from gradserve.results.explain import Explanation

_METHODS = fields.names(EXPLAIN_METHOD)


@dataclass(frozen=True)
class Selection:
    """Which methods, with which parameters, for which targets."""

    method: Annotated[list[str], options.one_of("--method", names=_METHODS, text="One of {}. May be repeated.")] = (
        field(default_factory=lambda: ["grad_cam"])
    )
    target: Annotated[
        list[str],
        typer.Option(
            "--target",
            help=f"{parse.TARGET}; the predicted class if left out. May be repeated.",
        ),
    ] = field(default_factory=list)
    region: Annotated[str | None, typer.Option("--region", help=f"{parse.REGION}.")] = None
    param: Annotated[
        list[str],
        typer.Option("--param", help="NAME=VALUE, or METHOD.NAME=VALUE with several methods. May be repeated."),
    ] = field(default_factory=list)
    until_stable: Annotated[
        float | None,
        typer.Option(
            "--until-stable",
            help="Relative standard error, above 0 to 1, at which methods that draw samples stop.",
        ),
    ] = None


@dataclass(frozen=True)
class OutputFiles:
    """What is saved where."""

    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Picture file, or folder for several.", rich_help_panel="Output"),
    ] = None
    save_map: Annotated[
        Path | None,
        typer.Option(
            "--save-map",
            help="File (.npy, or .npz with provenance), or folder, for maps as numbers.",
            rich_help_panel="Output",
        ),
    ] = None
    picture: Annotated[
        str, options.one_of("--picture", names=("overlay", "heatmap"), text="{}.", rich_help_panel="Output")
    ] = "overlay"
    colormap: Annotated[
        str | None,
        options.one_of(
            "--colormap",
            names=get_args(Colormap),
            text="{}. Default: inferno, or RdBu_r for maps with negative values.",
            rich_help_panel="Output",
        ),
    ] = None


@dataclass(frozen=True)
class Saved:
    """An explanation and where it went."""

    photo: Path
    result: Explanation
    picture: Path
    map: Path | None


@options.grouped
def explain(
    photos: options.Photos,
    *,
    selection: Selection,
    model: options.Model = "",
    files: OutputFiles,
    request: options.GradientsRequest,
    connection: options.Connection,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Maps that show which pixels a model's score depends on.

    Pictures go to --out, or to the current folder as PHOTO-METHOD.png. What the model's crop left out of a photo is
    dark and grey. The score is the target's: a class's logit, or a unit's value.

    Example: `gradserve explain photo.jpg --method smooth_grad --param samples=25 --out heat.png --save-map map.npy`

    Example: `gradserve explain *.jpg --method grad_cam --method gradient --target tabby --target rank:2 --out maps/`
    """
    targets = [parse.target(text) for text in selection.target]
    methods = parse.methods(selection.method, selection.param)
    region = parse.region(selection.region)
    total = output.expected(photos, methods, targets)
    pictures = output.OutputPaths(files.out, ".png", total)
    maps = output.OutputPaths(files.save_map, ".npy", total) if files.save_map else None
    colormap = cast(Colormap | None, files.colormap)
    saved: list[Saved] = []
    with connection.client(timeout) as client:
        answers = client.explain_many(
            photos,
            methods,
            target=targets,
            region=region,
            model=model,
            until_stable=selection.until_stable,
            **vars(request),
        )
        try:
            for photo, results in output.progress(zip(photos, answers, strict=True), len(photos), "explain"):
                for each in results:
                    path = output.save(each, pictures.path(photo, each, len(targets) > 1), files.picture, colormap)
                    numbers = each.save(maps.path(photo, each, len(targets) > 1)) if maps else None
                    saved.append(Saved(photo, each, path, numbers))
        finally:
            if saved:  # After an error, this is what was saved before it.
                _print(saved, as_json)


def _print(saved: list[Saved], as_json: bool) -> None:
    output.warn(_warnings(saved))
    if as_json:
        output.print_json({"explanations": [_json(each) for each in saved]})
        return
    table = Table(box=None)
    for column in ("photo", "method", "target"):
        table.add_column(column)
    partial = any(each.result.completed_fraction < 1 for each in saved)
    for column in ("score", *(["done"] if partial else [])):
        table.add_column(column, justify="right")
    table.add_column("saved as", overflow="fold")
    for each in saved:
        result = each.result
        numbers = [f"{result.target_value:.4g}", *([f"{result.completed_fraction:.0%}"] if partial else [])]
        paths = ", ".join(str(path) for path in (each.picture, each.map) if path)
        table.add_row(each.photo.name, result.method, result.target_name, *numbers, paths)
    output.out().print(table)


def _warnings(saved: list[Saved]) -> Iterator[str]:
    """What a careful reader should know, with the map that it is about where there are several."""
    for each in saved:
        about = f"{each.photo.name}, {each.result.method} of {each.result.target_name}: " if len(saved) > 1 else ""
        yield from (f"{about}{text}" for text in each.result.warnings)
        yield from each.result.provenance.warnings


def _json(each: Saved) -> dict[str, Any]:
    paths = {"picture": str(each.picture), "map": str(each.map) if each.map else None}
    return {"image": str(each.photo), **each.result.to_dict(), **paths}
