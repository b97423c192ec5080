"""What the commands that need no server share: options, errors as text, progress bars."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..config import read_settings
from ..methods.indexes.sources import Report
from ..models.catalogue import ModelSpec
from ..models.faults import check_builders
from ..models.flags import from_flag

console = Console(stderr=True, highlight=False)

Model = Annotated[str, typer.Option(help="NAME or NAME=WEIGHTS, as for gradserve serve")]
Config = Annotated[Path | None, typer.Option(help="TOML file with \\[models.NAME]")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Threads = Annotated[int | None, typer.Option(min=1, help="compute threads on a CPU; default: all")]


def run(command: Callable[..., None], name: str, arguments: Sequence[str] | None) -> int:
    """The command with these arguments; returns its exit code: 0, 1 after an error, 2 for wrong arguments."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app(list(sys.argv[1:] if arguments is None else arguments), prog_name=f"gradserve {name}")
    except SystemExit as ended:
        return int(ended.code or 0)
    except KeyboardInterrupt:
        console.print("interrupted" if name == "check" else "interrupted; the same command goes on from here")
        return 130
    except ValidationError as error:
        for fault in error.errors():
            console.print(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}", style="red", markup=False)
        return 2
    except (OSError, ValueError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    return 0


def spec_of(model: str, config: Path | None) -> ModelSpec:
    """The model of the configuration file, the embedded one or torchvision's. Raises OSError, ValueError."""
    spec = from_flag(model, read_settings(config).models)
    check_builders([spec])
    return spec


def device_of(name: str, threads: int | None) -> torch.device:
    """The device; on a CPU with so many threads."""
    if threads:
        torch.set_num_threads(threads)
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("this machine has no GPU; leave --device out")
    return torch.device(name)


@contextmanager
def reporting() -> Iterator[Report]:
    """A progress callback with a bar for each stage and the remaining time."""
    columns: tuple[Any, ...] = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        yield report
