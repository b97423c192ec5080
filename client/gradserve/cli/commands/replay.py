"""`gradserve replay`: maps computed again from what their file says, and compared."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from gradserve.cli import options, output
from gradserve.errors import FailedPrecondition, InternalError, InvalidArgument, NotFound
from gradserve.folders.replay import Replayed, replay

# Errors that are about one file alone: the other files are replayed all the same.
_OF_ONE_FILE = (ValueError, OSError, NotFound, InvalidArgument, FailedPrecondition, InternalError)
Maps = Annotated[list[Path], typer.Argument(help=".npz files of maps.", exists=True, dir_okay=False)]


@options.grouped
def replay_command(
    files: Maps,
    *,
    photo: Annotated[
        Path | None,
        typer.Option(
            "--photo", help="The photo, if it is not where the file of maps says.", exists=True, dir_okay=False
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Largest difference, as a share of the map's largest value.")
    ] = 1e-3,
    connection: options.Connection,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Compute maps again from their .npz files, and compare.

    The exit code is 1 where a map differs by more than the tolerance, and 2 where one could not be computed again. In
    precisions other than exact, rows are rounded by the company they have; give those a tolerance of their own.

    Example: `gradserve replay maps/cat.jpg.npz`

    Example: `gradserve replay map.npz --photo cat.jpg --tolerance 0.01`
    """
    found, failed = list[tuple[Path, Replayed]](), dict[str, str]()
    with connection.client(timeout) as client:
        for file in output.progress(files, len(files), "replay"):
            try:
                found += [(file, each) for each in replay(client, file, photo)]
            except _OF_ONE_FILE as error:
                failed[str(file)] = str(error)
    output.warn(_changes(found))
    agree = [each.difference <= tolerance for _, each in found]
    if as_json:
        documents = zip(found, agree, strict=True)
        maps = [{"file": str(f), **each.to_dict(), "agrees": ok} for (f, each), ok in documents]
        output.print_json({"maps": maps, "failed": failed})
    elif found:
        _print(found, agree)
    for name, reason in failed.items():
        output.err().print(reason if name in reason else f"{name}: {reason}", style="red")
    if failed or not all(agree):
        raise typer.Exit(2 if failed else 1)


def _print(found: list[tuple[Path, Replayed]], agree: list[bool]) -> None:
    table = Table(box=None)
    for name in ("file", "method", "target"):
        table.add_column(name, overflow="fold")
    for name in ("score then", "now", "difference", "correlation"):
        table.add_column(name, justify="right")
    table.add_column("")
    for (file, each), ok in zip(found, agree, strict=True):
        correlation = "" if each.correlation is None else f"{each.correlation:.6f}"
        scores = f"{each.target_value_then:.6g}", f"{each.target_value:.6g}"
        verdict = "agrees" if ok else "differs"
        table.add_row(str(file), each.method, each.target_name, *scores, f"{each.difference:.2g}", correlation, verdict)
    output.out().print(table)


def _changes(found: list[tuple[Path, Replayed]]) -> list[str]:
    """What the maps were made with, and are not made with now."""
    return [f"{file}: {name} was {then}, and is {now}" for file, each in found for name, then, now in each.changed]
