"""What the commands print and write: tables for people, JSON for programs, pictures and maps in files."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)

from gradserve.colours import Colormap
from gradserve.results import pictures
from gradserve.results.common import slug
from gradserve.results.explain import Explanation

T = TypeVar("T")
FILE_COLUMNS = 1000  # The width of output to files and pipes, which shortens no name.


def out() -> Console:
    """Standard output."""
    width = None if sys.stdout.isatty() else FILE_COLUMNS
    return Console(highlight=False, markup=False, width=width)


def err() -> Console:
    """Standard error: progress and warnings, so that standard output stays clean."""
    return Console(stderr=True, highlight=False, markup=False)


def warn(texts: Iterable[str]) -> None:
    """Print what a careful reader should know about the answers, each text once, on standard error."""
    for text in dict.fromkeys(texts):
        err().print(f"warning: {text}", style="yellow")


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yields the items. In a terminal, standard error shows a progress bar, or the elapsed seconds of a single item."""
    if total > 1 and err().is_terminal:
        yield from track(items, what, total=total, console=err(), transient=True)
        return
    with waiting(what):
        yield from items


@contextmanager
def bar_of(*columns: ProgressColumn) -> Iterator[Progress]:
    """A progress bar on standard error, which is shown only where that is a terminal.

    Elsewhere it is not started: in rich before 14.3 even a disabled bar writes an empty line.
    """
    bar = Progress(*columns, console=err(), transient=True)
    with bar if bar.console.is_terminal else nullcontext():
        yield bar


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows the elapsed seconds of a request without progress, on standard error where that is a terminal."""
    with bar_of(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
        bar.add_task(what, total=None)
        yield


@contextmanager
def steps(what: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that shows the current step: in a terminal it updates one line, elsewhere it prints a line."""
    with bar_of(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
        task = bar.add_task(what, total=None)

        def tell(text: str) -> None:
            bar.update(task, description=f"{what}: {text}")
            if not bar.console.is_terminal:
                bar.console.print(f"{what}: {text}")

        yield tell


@contextmanager
def counter(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that adds to the number done: in a terminal it moves a bar, elsewhere it prints every tenth."""
    done, begin = 0, time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with bar_of(*columns) as bar:
        task = bar.add_task(what, total=total)

        def advance(more: int) -> None:
            nonlocal done
            tenths, done = 10 * done // total, done + more
            bar.advance(task, more)
            if not bar.console.is_terminal and 10 * done // total > tenths:
                bar.console.print(f"{what}: {done} of {total}, {time.monotonic() - begin:.0f} s")

        yield advance


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C within it ends the command with exit code 130, and a line says that the same command resumes the work."""
    try:
        yield
    except KeyboardInterrupt:
        err().print("interrupted; the same command goes on from here")
        raise typer.Exit(130) from None


def watched(events: Iterator[Any], what: str) -> Any:
    """The result of a stream of progress, with a bar on standard error where that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with bar_of(*columns, TextColumn("{task.fields[losses]}")) as bar:
        task = bar.add_task(what, total=None, losses="")
        for event in events:
            if not isinstance(event, pictures.Progress):
                return event
            losses = "  ".join(f"{name} {value:.4g}" for name, value in event.losses.items())
            bar.update(task, completed=event.step, total=event.steps, losses=losses)
    raise AssertionError("a stream ends with a result")


class OutputPaths:
    """Gives every explanation a path of its own: the one that was asked for, or one in a folder."""

    def __init__(self, requested: Path | None, suffix: str, expected: int) -> None:
        self._file = requested if requested and requested.suffix and not requested.is_dir() else None
        self._folder = Path() if requested is None else requested
        self._suffix = suffix
        self._taken: set[Path] = set()
        if self._file and expected > 1:
            raise ValueError(f"{expected} files are to be written; give a folder instead of {requested}")

    def path(self, photo: Path, result: Explanation, several_targets: bool) -> Path:
        """The path for one explanation of a photo: PHOTO-METHOD[-TARGET], numbered if that is taken."""
        return self.place(
            "-".join([photo.stem, result.method, *([slug(result.target_name)] if several_targets else [])])
        )

    def place(self, stem: str) -> Path:
        """The path that was asked for, or one of that name in the folder, numbered if that is taken."""
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            return self._file
        self._folder.mkdir(parents=True, exist_ok=True)
        path, number = self._folder / f"{stem}{self._suffix}", 1
        while path in self._taken:
            number += 1
            path = self._folder / f"{stem}-{number}{self._suffix}"
        self._taken.add(path)
        return path


def save(result: Explanation, path: Path, picture: str, colormap: Colormap | None = None) -> Path | None:
    """Save the overlay, the heatmap or the object, or the map itself if the path ends in .npy or .npz.

    Nothing is saved, and None returned, where there is no object to cut out.
    """
    if path.suffix.lower() in (".npy", ".npz") or picture == "overlay":
        return result.save(path, colormap=colormap)
    if picture == "cutout" and result.segment is None:
        return None
    (result.cutout() if picture == "cutout" else result.heatmap(colormap)).save(path)
    return path


def expected(photos: Sequence[Path], methods: Sequence[object], targets: Sequence[object]) -> int:
    """How many maps there will be."""
    return len(photos) * len(methods) * max(1, len(targets))
