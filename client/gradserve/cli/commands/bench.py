"""`gradserve bench`: a first look at how fast a running server is."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.table import Table

from gradserve import images
from gradserve.cli import options, output
from gradserve.cli.commands import load, tune
from gradserve.messages import fields
from gradserve.messages.explain import EXPLAIN_METHOD


@dataclass(frozen=True)
class Traffic:
    """What is sent, by how many callers, for how long."""

    method: Annotated[
        list[str],
        typer.Option("--method", help="predict or a method of explain, with its share: grad_cam=2. May be repeated."),
    ] = field(default_factory=lambda: ["predict", "gradient", "grad_cam"])
    callers: Annotated[int, typer.Option("--callers", "-n", min=1, help="Callers at once.")] = 16
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="How long to send.")] = 10.0
    requests: Annotated[int | None, typer.Option("--requests", min=1, help="Stop after so many requests.")] = None
    image: Annotated[
        Path | None, typer.Option("--image", exists=True, dir_okay=False, help="Picture to send; noise if left out.")
    ] = None

    def on(self, model: str) -> load.Load:
        """The load on one model."""
        mix = _mix(self.method)
        return load.Load(self.image or _noise(), model, mix, self.callers, self.seconds, self.requests)


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
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
    as_json: options.Json = False,
) -> None:
    """Requests and rows per second and latencies of a running server, in a closed loop of callers.

    A row is one image through one pass.

    With --tune no server is asked: rows per pass and precisions are measured for each model of the configuration, and
    written to a file for `gradserve serve --tuned FILE`.

    Example: `gradserve bench --callers 16 --seconds 10 --method predict --method grad_cam=2 --method smooth_grad`
    """
    if tuning.tune:
        tune.tune(tuning.tune, tuning.config, [model] if model else [])
        return
    closed_loop = traffic.on(model)

    async def send() -> tuple[list[load.Sample], float]:
        async with connection.async_client(timeout) as client:
            return await load.run(client, closed_loop)

    with output.err().status(f"{closed_loop.callers} callers, at most {closed_loop.seconds:g} s"):
        samples, took = asyncio.run(send())
    figures = load.figures(samples, took)
    if as_json:
        methods = [output.plain(each) for each in figures]
        output.print_json({"callers": closed_loop.callers, "seconds": took, "mix": closed_loop.mix, "methods": methods})
    else:
        output.out().print(_table(figures, closed_loop.callers, took))


def _mix(texts: Sequence[str]) -> dict[str, float]:
    mix: dict[str, float] = {}
    methods = [load.PREDICT, *fields.names(EXPLAIN_METHOD)]
    for text in texts:
        name, _, share = text.partition("=")
        if name not in methods:
            raise fields.unknown("method", name, methods)
        try:
            mix[name] = float(share or 1)
        except ValueError:
            raise ValueError(f"--method {text}: the share must be a number, not {share!r}") from None
        if not mix[name] > 0:
            raise ValueError(f"--method {text}: the share must be above 0")
    return mix


def _noise() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return images.png(Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC))


def _table(figures: Sequence[load.Figures], callers: int, seconds: float) -> Table:
    table = Table(title=f"{callers} callers, {seconds:.1f} s", title_justify="left", box=None)
    table.add_column("method")
    for column in ("requests", "failed", "req/s", "rows/s", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for each in figures:
        failed = ", ".join(f"{count} {code}" for code, count in each.failed.items())
        rates = (f"{each.requests_per_second:.1f}", f"{each.rows_per_second:.1f}")
        times = (f"{each.p50_ms:.1f}", f"{each.p95_ms:.1f}", f"{each.p99_ms:.1f}")
        table.add_row(each.method, str(each.requests), failed, *rates, *times)
    return table
