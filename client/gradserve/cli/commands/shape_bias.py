"""`gradserve shape-bias`: do networks decide by shape or by texture?"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gradserve.cli import options, output
from gradserve.messages import pictures
from gradserve.shape import report, sources
from gradserve.shape.run import Recipe, ShapeRun
from gradserve.styled.pictures import StyledFolder

_TEXTURE_SHARE = 0.5  # A texture is the middle of its picture: so much of the shorter side.
_SOURCES = "a folder of class folders, one with labels.csv, an .npz, or CLASS=FILE. May be repeated."


@dataclass(frozen=True)
class Networks:
    """The network that makes the pictures, and those that judge them."""

    styler: Annotated[
        str, typer.Option("--styler", metavar="NAME", help="Model that makes the pictures. It cannot judge them.")
    ]
    judge: Annotated[list[str], typer.Option("--judge", metavar="NAME", help="Model that decides. May be repeated.")]


@dataclass(frozen=True)
class Making:
    """The recipe. Shares of other recipes are not comparable."""

    size: Annotated[int, typer.Option("--size", min=1, help="Side of the pictures in pixels.")] = Recipe.size
    steps: Annotated[int, typer.Option("--steps", min=1, max=4096, help="Steps of Stylize.")] = Recipe.steps
    weight: Annotated[
        list[float], typer.Option("--content-weight", min=0, help="Weight of the content. May be repeated.")
    ] = field(default_factory=lambda: list(Recipe.weights))


@dataclass(frozen=True)
class Reports:
    """Where pictures and report go, and what the report shows."""

    out: Annotated[
        Path,
        typer.Option("--out", "-o", file_okay=False, help="Folder of pictures and report.", rich_help_panel="Output"),
    ] = Path("shape-out")
    shown: Annotated[
        int, typer.Option("--shown", min=0, max=100, help="Pairs of pictures on the page.", rich_help_panel="Output")
    ] = 12
    restart: Annotated[bool, typer.Option("--restart", help="Make all pictures anew.", rich_help_panel="Output")] = (
        False
    )


@options.grouped
def shape_bias(
    content: Annotated[list[str], typer.Option("--content", help=f"Pictures that give shapes: {_SOURCES}")],
    texture: Annotated[list[str], typer.Option("--texture", help=f"Pictures that give textures: {_SOURCES}")],
    *,
    networks: Networks,
    making: Making,
    seed: options.Seed = None,
    concurrency: options.Concurrency = 8,
    reports: Reports,
    connection: options.Connection,
    timeout: options.Timeout = pictures.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Pictures with the shape of one class and the texture of another: by which of them do networks decide?

    Stylize makes every pair of a content and a texture, at several weights of the content, and keeps them as PNG files;
    a run that was killed goes on where it was, and other models may judge the same files. Writes results.json and a
    page, index.html.

    Example: `gradserve shape-bias --content animals/ --texture textures/ --styler squeezenet1_0 --judge imagenet`
    """
    recipe = Recipe(making.size, making.steps, tuple(sorted(set(making.weight))), seed or 0)
    shapes, textures = sources.read(content, "--content", 1.0), sources.read(texture, "--texture", _TEXTURE_SHARE)
    began = time.monotonic()
    with output.resumable(), connection.client(timeout) as client:
        run = ShapeRun(client, shapes, textures, networks.styler, networks.judge, recipe)
        folder = StyledFolder(reports.out, run.settings(), restart=reports.restart)
        with output.counter("stylize", len(run.conflicts)) as advance:
            made = run.make(folder, concurrency, advance)
        seconds = time.monotonic() - began
        with output.counter("judge", len(run)) as advance:
            judged = run.judge(reports.out, concurrency, advance)
    facts = {
        "pictures": len(run.conflicts),
        "found": made.found,
        "failed": made.failed,
        "seconds_stylizing": seconds,
        "seconds_judging": time.monotonic() - began - seconds,
    }
    result = report.write(reports.out, run, judged, facts, reports.shown)
    if as_json:
        output.print_json(result)
    else:
        _print(result, reports.out / report.PAGE)
    output.warn(f"{file}: {reason}" for file, reason in made.failed.items())
    if made.failed:
        raise typer.Exit(1)


def _print(result: dict[str, Any], path: Path) -> None:
    made, seconds = result["pictures"] - result["found"], result["seconds_stylizing"]
    output.out().print(f"{made} pictures made in {seconds:.0f} s, {result['found']} found; see {path}")
    table = Table(box=None)
    for name in ("network", "content weight", "shape share", "95 % interval"):
        table.add_column(name)
    for name in ("shape", "texture", "neither", "of all classes: shape", "texture", "neither"):
        table.add_column(name, justify="right")
    for judge in result["judges"]:
        for point in judge["curve"]:
            few, every = point["among_the_sets_classes"], point["among_all_classes"]
            share = "-" if point["shape_share"] is None else f"{point['shape_share']:.1%}"
            interval = f"{point['low']:.1%} to {point['high']:.1%}"
            table.add_row(
                judge["model"],
                f"{point['content_weight']:g}",
                share,
                interval,
                *(str(count) for count in (*few.values(), *every.values())),
            )
    output.out().print(table)
