"""`gradserve explain`: maps of what a model's score depends on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gradserve.cli import options, output, parse
from gradserve.cli import output as report
from gradserve.messages import fields
from gradserve.messages.common import EXPLAIN_METHOD
from gradserve.results.common import Explanation

_METHODS = ", ".join(fields.names(EXPLAIN_METHOD))

Photos = Annotated[list[Path], typer.Argument(help="Picture files.", exists=True, dir_okay=False)]
MethodNames = Annotated[list[str], typer.Option("--method", help=f"One of {_METHODS}. May be repeated.")]
Targets = Annotated[
    list[str],
    typer.Option(
        "--target",
        help="A class's index or name, rank:2, unit:LAYER:CHANNEL or unit:LAYER:CHANNEL:Y,X; "
        "the predicted class if left out. May be repeated.",
    ),
]
Parameters = Annotated[
    list[str],
    typer.Option("--param", help="NAME=VALUE, or METHOD.NAME=VALUE with several methods. May be repeated."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Picture file, or folder for several.", rich_help_panel="Output"),
]
SaveMap = Annotated[
    Path | None,
    typer.Option("--save-map", help="File (.npy), or folder, for the maps as numbers.", rich_help_panel="Output"),
]
Picture = Annotated[str, typer.Option("--picture", help="overlay or heatmap.", rich_help_panel="Output")]


@dataclass(frozen=True)
class Saved:
    """An explanation and where it went."""

    photo: Path
    found: Explanation
    picture: Path
    map: Path | None


def explain(
    photos: Photos,
    method: MethodNames = ["grad_cam"],  # noqa: B006  typer copies it
    target: Targets = [],  # noqa: B006
    param: Parameters = [],  # noqa: B006
    model: options.Model = "",
    out: Out = None,
    save_map: SaveMap = None,
    picture: Picture = "overlay",
    preprocess: options.Preprocess = "model_default",
    priority: options.Priority = "interactive",
    precision: options.Precision = "auto",
    seed: options.Seed = None,
    time_budget: options.TimeBudget = None,
    allow_partial: options.AllowPartial = False,
    quick_decode: options.QuickDecode = False,
    alone: options.Alone = False,
    concurrency: options.Concurrency = 8,
    server: options.Server = options.DEFAULT_ADDRESS,
    tls: options.Tls = False,
    ca: options.Ca = None,
    token: options.Token = None,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Maps that show which pixels a model's score depends on.

    Pictures go to --out, or beside you as PHOTO-METHOD.png.

    Example: `gradserve explain photo.jpg --method smooth_grad --param samples=25 --out heat.png --save-map map.npy`

    Example: `gradserve explain *.jpg --method grad_cam --method gradient --target "tabby cat" --out maps/`
    """
    if picture not in ("overlay", "heatmap"):
        raise typer.BadParameter(f"{picture!r} is neither overlay nor heatmap", param_hint="--picture")
    arguments: dict[str, Any] = {
        "target": [parse.target(text) for text in target],
        "model": model,
        "preprocess": preprocess,
        "priority": priority,
        "precision": precision,
        "seed": seed,
        "time_budget": time_budget,
        "allow_partial": allow_partial,
        "quick_decode": quick_decode,
        "alone": alone,
        "concurrency": concurrency,
    }
    methods = parse.methods(method, param)
    total = output.expected(photos, methods, target)
    pictures = output.OutputPaths(out, ".png", total)
    maps = output.OutputPaths(save_map, ".npy", total) if save_map else None
    saved: list[Saved] = []
    with options.connect(server, tls, ca, token, timeout) as client:
        answers = client.explain_many(photos, methods, **arguments)
        try:
            for photo, found in report.progress(report.named(photos, answers, "explaining"), len(photos), "explain"):
                for each in found:
                    path = output.save(each, pictures.path(photo, each, len(target) > 1), picture)
                    numbers = each.save(maps.path(photo, each, len(target) > 1)) if maps else None
                    saved.append(Saved(photo, each, path, numbers))
        finally:
            if saved:  # all, or what was saved before the error
                _print(saved, as_json)


def _print(saved: list[Saved], as_json: bool) -> None:
    report.warn(text for each in saved for text in (*each.found.warnings, *each.found.provenance.warnings))
    if as_json:
        report.print_json({"explanations": [_json(each) for each in saved]})
        return
    table = Table(box=None)
    for column in ("photo", "method", "target"):
        table.add_column(column)
    table.add_column("value", justify="right")
    table.add_column("done", justify="right")
    table.add_column("saved as", overflow="fold")
    for each in saved:
        found = each.found
        value, done = f"{found.target_value:.4g}", f"{found.completed_fraction:.0%}"
        paths = ", ".join(str(path) for path in (each.picture, each.map) if path)
        table.add_row(each.photo.name, found.method, found.target_name, value, done, paths)
    report.out().print(table)


def _json(each: Saved) -> dict[str, Any]:
    paths = {"picture": str(each.picture), "map": str(each.map) if each.map else None}
    return {"image": str(each.photo), **report.explanation(each.found), **paths}
