"""`gradserve dense`: where in a picture classes score high."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gradserve.cli import options, output, parse
from gradserve.results.common import slug
from gradserve.results.dense import DenseMaps


@dataclass(frozen=True)
class Subject:
    """The classes that are looked for, and the size in which the model sees the picture."""

    target: Annotated[
        list[str],
        typer.Option("--target", "-t", help="A class's index or name, or rank:2. At most 16. Default: the predicted."),
    ] = field(default_factory=list)
    size: Annotated[
        int | None,
        typer.Option("--size", min=1, help="Longer side in pixels, as the model sees it. Default: the photo's."),
    ] = None
    tile: Annotated[
        int | None, typer.Option("--tile", min=1, help="The most pixels of a side that are computed at once.")
    ] = None


@dataclass(frozen=True)
class DenseRequest:
    """What the request carries."""

    priority: options.Priority = "interactive"
    time_budget: options.TimeBudget = None
    alone: options.Alone = False


@options.grouped
def dense(
    photo: options.Photo,
    *,
    subject: Subject,
    model: options.Model = "",
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Picture file, the class's name added; or .npz.", rich_help_panel="Output"),
    ] = Path("dense.png"),
    request: DenseRequest,
    connection: options.Connection,
    timeout: options.Timeout = 300.0,
    as_json: options.Json = False,
) -> None:
    """Where in a picture of any size classes score high: a map of each, over the photo.

    The network's head goes over the picture as a convolution. A picture that is larger than what the model takes at
    once is computed in tiles, which agree with the whole. Each class's picture is saved as OUT with its name added.

    Example: `gradserve dense photo.jpg --target tabby --target toaster --size 800`
    """
    arguments: dict[str, Any] = {"model": model, "size": subject.size, "tile": subject.tile, **vars(request)}
    targets = [parse.target(text) for text in subject.target]
    with connection.client(timeout) as client, output.waiting("dense"):
        result = client.dense(photo, targets, **arguments)
    saved = _save(result, out)
    output.warn(result.provenance.warnings)
    if as_json:
        output.print_json({**result.to_dict(), "saved": [str(path) for path in saved]})
        return
    grid = result[0].grid
    height, width = result[0].logits.shape
    tiles = f" in {result.tiles} tiles" if result.tiles > 1 else ""
    output.out().print(
        f"{width} x {height} cells, {grid.stride} pixels apart, of {grid.width} x {grid.height} pixels{tiles}; "
        f"the whole picture: {result.top[0].class_name} {result.top[0].probability:.1%}"
    )
    output.out().print(_table(result))
    output.out().print("saved as " + ", ".join(map(str, saved)))


def _save(result: DenseMaps, out: Path) -> list[Path]:
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() == ".npz":
        return [result.save(out)]
    paths = output.OutputPaths(out.parent, out.suffix, len(result))
    return [each.save(paths.place(f"{out.stem}-{slug(each.score.class_name)}")) for each in result]


def _table(result: DenseMaps) -> Table:
    table = Table(box=None)
    table.add_column("class")
    for column in ("whole picture", "largest cell", "row, column", "cells above 50 %"):
        table.add_column(column, justify="right")
    for each in result:
        above = int((each.probabilities > 0.5).sum())
        place = f"{each.cell[0]}, {each.cell[1]}"
        table.add_row(each.score.class_name, f"{each.score.probability:.1%}", f"{each.largest:.1%}", place, str(above))
    return table
