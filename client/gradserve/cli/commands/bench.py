"""`gradserve bench`: load on a running server, and what it makes of it."""

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import typer
from PIL import Image
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from gradserve import images
from gradserve.cli import options, output
from gradserve.cli.commands import bench_report, tune
from gradserve.load.capacity import Capacity, find
from gradserve.load.figures import LoadFigures, figures
from gradserve.load.loops import ClosedLoop, Loop, OpenLoop, record
from gradserve.load.mix import MixEntry, explanations, read_mix
from gradserve.load.page import LoadRun
from gradserve.load.sender import Sender
from gradserve.transport.channel import Endpoint

T = TypeVar("T")
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_LOAD = "Load"


@dataclass(frozen=True)
class Traffic:
    """What is sent, how often, for how long."""

    method: Annotated[
        list[str],
        typer.Option(
            "--method",
            help="predict or a method of explain, with its share: grad_cam=2. May be repeated.",
            rich_help_panel=_LOAD,
        ),
    ] = field(default_factory=lambda: ["predict", "gradient", "grad_cam"])
    mix: Annotated[
        Path | None,
        typer.Option(
            "--mix",
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="TOML file with what to send, of all RPCs, instead of --method.",
            rich_help_panel=_LOAD,
        ),
    ] = None
    image: Annotated[
        list[Path],
        typer.Option(
            "--image",
            exists=True,
            help="Picture to send, or a folder of them; noise if left out. May be repeated.",
            rich_help_panel=_LOAD,
        ),
    ] = field(default_factory=list)
    rate: Annotated[
        list[float],
        typer.Option(
            "--rate",
            min=0.001,
            help="Open loop: requests per second, at random times. Several rates are run one after another.",
            rich_help_panel=_LOAD,
        ),
    ] = field(default_factory=list)
    callers: Annotated[
        int, typer.Option("--callers", "-n", min=1, help="Closed loop: callers at once.", rich_help_panel=_LOAD)
    ] = 16
    requests: Annotated[
        int | None,
        typer.Option("--requests", min=1, help="Closed loop: stop after so many requests.", rich_help_panel=_LOAD),
    ] = None
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="How long to send and to count.", rich_help_panel=_LOAD)
    ] = 10.0
    warm_up: Annotated[
        float, typer.Option("--warm-up", min=0, help="Seconds to send before counting.", rich_help_panel=_LOAD)
    ] = 0.0
    deadline: Annotated[
        float,
        typer.Option("--deadline", "--timeout", min=0.001, help="Seconds that a call may take.", rich_help_panel=_LOAD),
    ] = options.DEFAULT_TIMEOUT
    connections: Annotated[
        int, typer.Option("--connections", min=1, help="Connections to send over.", rich_help_panel=_LOAD)
    ] = 1
    max_under_way: Annotated[
        int,
        typer.Option(
            "--max-under-way",
            min=1,
            help="Open loop: the most requests under way; one that is due beyond them is counted and not sent.",
            rich_help_panel=_LOAD,
        ),
    ] = 10_000
    find_capacity: Annotated[
        bool,
        typer.Option(
            "--find-capacity",
            help="Find the highest rate that is answered in time, in up to 15 steps of --seconds each.",
            rich_help_panel=_LOAD,
        ),
    ] = False
    max_p95: Annotated[
        float | None,
        typer.Option(
            "--max-p95",
            min=0.001,
            help="With --find-capacity: the most seconds that 95 % of the answers may take; default: the deadline.",
            rich_help_panel=_LOAD,
        ),
    ] = None
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", dir_okay=False, metavar="FILE", help="Also write a page with charts.", rich_help_panel="Output"
        ),
    ] = None
    seed: Annotated[int, typer.Option("--seed", help="Seed of what is sent when.", rich_help_panel=_LOAD)] = 0

    def entries(self, model: str) -> list[MixEntry]:
        """What is asked."""
        return read_mix(self.mix) if self.mix else explanations(self.method, model)

    def loops(self) -> list[Loop]:
        """The loads to put on the server, one after another."""
        if self.rate:
            return [OpenLoop(rate, self.seconds, self.warm_up, self.max_under_way) for rate in self.rate]
        return [ClosedLoop(self.callers, self.seconds, self.warm_up, self.requests)]

    def sender(self, endpoint: Endpoint, model: str) -> Sender:
        """What sends it."""
        return Sender(
            endpoint,
            self.entries(model),
            _pictures(self.image),
            deadline=self.deadline,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Tuning:
    """What to measure instead of a server."""

    tune: Annotated[
        Path | None,
        typer.Option(
            "--tune",
            dir_okay=False,
            metavar="FILE",
            help="Measure this machine instead, and write what suits it to FILE.",
        ),
    ] = None
    config: Annotated[
        Path | None, typer.Option("--config", exists=True, dir_okay=False, help="With --tune: the server's TOML file.")
    ] = None


@options.grouped
def bench(
    *,
    traffic: Traffic,
    tuning: Tuning,
    model: options.Model = "",
    connection: options.Connection,
    as_json: options.Json = False,
) -> None:
    """Rates and latencies of a running server under load.

    Without --rate callers send their next request when the last one is answered (a closed loop). With --rate requests
    come at random times whether or not earlier ones are answered (an open loop), as those of many callers do, and
    latency counts from when a request was due. Goodput is what was answered within the deadline.

    With --tune no server is asked: rows per pass and precisions are measured for each model of the configuration, and
    written to a file for `gradserve serve --tuned FILE`.

    Example: `gradserve bench --rate 50 --rate 100 --seconds 30 --deadline 2 --method predict --method grad_cam=2`
    """
    if traffic.find_capacity and traffic.rate:
        raise ValueError("--find-capacity chooses its own rates; leave --rate out")
    if tuning.tune:
        tune.tune(tuning.tune, tuning.config, [model] if model else [])
        return
    sender = traffic.sender(connection.endpoint(traffic.connections), model)
    runs: list[LoadRun] = []
    capacity = asyncio.run(_measure(sender, traffic, runs))
    output.warn(f"{run.title}: {warning}" for run in runs for warning in run.figures.warnings)
    if traffic.html:
        bench_report.write_page(traffic.html, connection.address, sender, runs, capacity)
    if as_json:
        output.print_json(bench_report.document(sender, runs, capacity))
    else:
        bench_report.show(runs, capacity)


async def _measure(sender: Sender, traffic: Traffic, runs: list[LoadRun]) -> Capacity | None:
    """Put the loads on the server and add them to the runs; returns the capacity if it is to be found."""

    async def run(loop: Loop) -> LoadFigures:
        title = bench_report.title(loop)
        recording = await _watched(record(sender, loop), title, loop.warm_up + loop.seconds)
        runs.append(LoadRun(title, recording, figures(recording, sender.mix, sender.deadlines)))
        return runs[-1].figures

    async with sender:
        if traffic.find_capacity:
            bound = traffic.deadline if traffic.max_p95 is None else traffic.max_p95
            times = {"seconds": traffic.seconds, "warm_up": traffic.warm_up, "max_p95": bound}
            return await find(run, **times, max_under_way=traffic.max_under_way)
        for loop in traffic.loops():
            await run(loop)
    return None


async def _watched(work: Awaitable[T], what: str, seconds: float) -> T:
    """The result of work that takes about so many seconds, with a bar on standard error while somebody watches."""
    task = asyncio.ensure_future(work)
    with _bar(what, seconds) as bar:
        while not task.done():
            await asyncio.wait([task], timeout=0.5)
            bar.advance(bar.task_ids[0], 0.5)
    return task.result()


@contextmanager
def _bar(what: str, seconds: float) -> Iterator[Progress]:
    with output.bar_of(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()) as bar:
        bar.add_task(what, total=seconds)
        yield bar


def _pictures(paths: Sequence[Path]) -> list[bytes]:
    """The bytes of the pictures, of folders those of the files with a picture's suffix; noise if there are none."""
    files: list[Path] = []
    for path in paths:
        inside = (
            sorted(each for each in path.iterdir() if each.suffix.lower() in _SUFFIXES) if path.is_dir() else [path]
        )
        if not inside:
            raise ValueError(f"--image {path}: the folder has no pictures ({', '.join(sorted(_SUFFIXES))})")
        files += inside
    return [file.read_bytes() for file in files] or [_noise()]


def _noise() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return images.png(Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC))
