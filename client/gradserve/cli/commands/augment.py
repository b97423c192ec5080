"""`gradserve augment`: a stylised copy of a labelled folder, to train on."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from gradserve.cli import options, output, parse
from gradserve.datasets import open_dataset
from gradserve.messages import pictures
from gradserve.styled.augment import AugmentPlan, AugmentRun, check_apart, style_files
from gradserve.v1 import stylize_pb2

_SETTINGS: Any = stylize_pb2.StylizeSettings.DESCRIPTOR
_SIDE, _STEPS = 224, 60  # Pixels of the longer side and steps, unless others are asked for.

Data = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        exists=True,
        help="Labelled pictures: a folder of class folders, a folder with labels.csv (file, class_name) or an .npz.",
    ),
]
Style = Annotated[
    list[Path],
    typer.Option("--style", "-s", exists=True, help="Picture whose style to take, or folder of such. Repeatable."),
]


@dataclass(frozen=True)
class CopySettings:
    """How many copies are made of a picture, and how."""

    copies: Annotated[
        int, typer.Option("--copies", min=1, help="Copies of each picture, each in another of the styles.")
    ] = 1
    size: Annotated[int, typer.Option("--size", min=1, help="Longer side of the copies in pixels.")] = _SIDE
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of Stylize.")] = _STEPS
    param: Annotated[
        list[str], typer.Option("--param", help=f"NAME=VALUE, of {parse.settings_of(_SETTINGS)}. May be repeated.")
    ] = field(default_factory=list)

    def arguments(self) -> dict[str, Any]:
        """The options as the client's `stylize` takes them."""
        return {"size": self.size, **parse.settings(_SETTINGS, self.param, self.steps)}


@dataclass(frozen=True)
class CopyOutput:
    """Where the copies go."""

    out: Annotated[
        Path, typer.Option("--out", "-o", file_okay=False, help="Folder of the copies.", rich_help_panel="Output")
    ] = Path("styled")
    restart: Annotated[bool, typer.Option("--restart", help="Make all copies anew.", rich_help_panel="Output")] = False


@options.grouped
def augment(
    data: Data,
    style: Style,
    *,
    model: options.Model = "",
    copies: CopySettings,
    limit: options.Limit = None,
    seed: options.Seed = None,
    concurrency: options.Concurrency = 8,
    files: CopyOutput,
    connection: options.Connection,
    timeout: options.Timeout = pictures.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """A copy of a labelled folder in which every picture has the style of another, to train on.

    A network that learns from such copies too cannot go by texture alone (Geirhos et al. 2019). Which style a picture
    gets is drawn by the seed. A run that was killed goes on where it was: a copy is written whole or not at all. The
    exit code is 1 where a picture has no copy.

    Example: `gradserve augment animals/ --style paintings/ --model squeezenet1_0 --out animals-styled/`
    """
    check_apart(data, files.out)
    dataset = open_dataset(data).take(limit, seed or 0)
    plan = AugmentPlan(dataset, style_files(style), copies.copies, seed or 0, model, copies.arguments())
    began = time.monotonic()
    with output.resumable(), connection.client(timeout) as client:
        run = AugmentRun(client, plan, files.out, restart=files.restart)
        with output.counter("stylize", len(run.copies)) as advance:
            report = run.make(concurrency, advance)
    seconds = time.monotonic() - began
    facts = {"total": report.total, "done": report.done, "found": report.found, "failed": report.failed}
    if as_json:
        output.print_json({**facts, "seconds": seconds, "saved": str(files.out)})
    else:
        made = f"{report.done} copies made in {seconds:.0f} s, {report.found} found, {len(report.failed)} failed"
        output.out().print(f"{made}; {report.total} wanted, in {files.out}")
    output.warn(f"{file}: {reason}" for file, reason in report.failed.items())
    if report.failed:
        raise typer.Exit(1)
