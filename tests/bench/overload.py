"""A server that gets several times what it can answer: goodput, refusals, latency, wasted rows, memory afterwards.

`python -m tests.bench.overload --help`
"""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import numpy as np
import psutil
import typer
from rich.progress import track
from rich.table import Table

from gradserve.load.figures import REFUSED, LoadFigures
from gradserve.load.loops import ClosedLoop, OpenLoop
from gradserve.load.mix import MixEntry

from .. import serving
from ..loads import loaded, pinned_apart
from . import report
from .faithfulness import DATA, RESIZE, Data, photo_names

MODELS = {
    "cifar10": "[models.cifar10]\n",
    "mobilenet_v2": '[models.mobilenet_v2]\nweights = "{data}/mobilenet_v2-imagenet.safetensors"\nresize = {resize}\n',
}
CALLERS = 8  # Callers of the closed loop whose rate is the capacity.
CALM_FACTOR = 2  # A lone answer this many times as slow as the p95 before the load shows that the load is still felt.
REST = 5.0  # Seconds after the load in which a lone caller asks.
FIGURES = (
    "capacity",
    "capacity_after",
    "goodput",
    "refused",
    "answer_p50",
    "answer_p95",
    "refusal_p50",
    "refusal_p95",
    "refusal_server_p95",
)
FIGURES += ("unanswered", "uneasy", "memory")
IDLE_SECONDS = 12.0  # Without requests; workers give memory back after 10, and their last figures arrive meanwhile.


class Rows(NamedTuple):
    """Rows computed: all, and those for requests that were not answered."""

    all: float
    unanswered: float


@dataclass(frozen=True)
class Overload:
    """One load on one server. Rates are per second, times in seconds; NaN where nothing was answered or refused.

    capacity_after is measured like the capacity, after the load: where both differ the machine's pace has changed.
    goodput is a share of the capacity, refused one of all requests, unanswered one of all rows. refusal_p95 counts from
    when a request was due, refusal_server_p95 from when the server began with it, of those refusals that its log shows.
    uneasy: seconds after the load until a lone caller was answered as quickly as before. memory: anonymous memory of
    the server beside before, when it was idle for IDLE_SECONDS after that.
    """

    capacity: float
    capacity_after: float
    offered: float
    goodput: float
    refused: float
    answer_p50: float
    answer_p95: float
    refusal_p50: float
    refusal_p95: float
    refusal_server_p95: float
    unanswered: float
    uneasy: float
    memory: float
    codes: dict[str, int]
    warnings: list[str]


def main(
    model: Annotated[list[str], typer.Option(help="Repeat for several.")] = list(MODELS),  # noqa: B006  typer copies it
    method: Annotated[str, typer.Option(help="A method of Explain.")] = "gradient",
    times: Annotated[float, typer.Option(min=0.1, help="Offered rate, as a multiple of the capacity.")] = 4.0,
    deadline: Annotated[list[float], typer.Option(help="Seconds; repeat for several.")] = [2.0, 60.0],  # noqa: B006
    seconds: Annotated[float, typer.Option(min=1, help="Of each load.")] = 60.0,
    rounds: Annotated[int, typer.Option(min=1, help="Loads of each kind.")] = 3,
    data: Data = DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """One worker has a processor to itself; front-end and generator share another. Default settings.

    The capacity is what eight callers get that wait for their answers, measured before each load and after it.
    Pictures are the photos of --data.
    """
    kinds = [(name, each) for _ in range(rounds) for name in model for each in deadline]
    found: dict[tuple[str, float], list[Overload]] = {}
    for name, limit in track(kinds, console=report.console):
        with server_of(name, data) as server:
            load = overloaded(server, MixEntry("explain", method=method, model=name), data, times, limit, seconds)
            found.setdefault((name, limit), []).append(asyncio.run(load))
    document = [
        {"model": name, "deadline": limit, "rounds": [asdict(each) for each in runs]}
        for (name, limit), runs in found.items()
    ]
    report.deliver({"overload": document}, [table(found, times)], as_json, out)


@contextmanager
def server_of(model: str, data: Path) -> Iterator[serving.Server]:
    """A server of that model with one worker, apart from this process."""
    config = MODELS[model].format(data=data.resolve(), resize=RESIZE)
    with serving.Server(f"[pool]\nworkers = 1\n{config}") as server:
        assert server.address
        with pinned_apart(server):
            yield server


async def overloaded(
    server: serving.Server, entry: MixEntry, data: Path, times: float, deadline: float, seconds: float
) -> Overload:
    """Capacity, the load, and the rest after it."""
    mix = [entry]
    photos = [(data / "images" / name).read_bytes() for name in photo_names(data)]
    capacity = await capacity_of(server, mix, photos)
    lone = (await loaded(server.address, mix, photos, ClosedLoop(1, 3.0))).all.ok
    before, counted, logged = memory(server), rows(server), len(server.log())
    load = await loaded(
        server.address, mix, photos, OpenLoop(times * capacity, seconds, warm_up=3.0), deadline=deadline
    )
    uneasy = await unease(server, mix, photos, CALM_FACTOR * lone.p95 if lone else 0.0)
    await asyncio.sleep(IDLE_SECONDS)
    after = rows(server)
    spent = Rows(after.all - counted.all, after.unanswered - counted.unanswered)
    growth, refused = memory(server) / before, refusals(server.log()[logged:])
    return overload(load, (capacity, await capacity_of(server, mix, photos)), spent, refused, uneasy, growth)


async def capacity_of(server: serving.Server, mix: list[MixEntry], photos: list[bytes]) -> float:
    """Answers in a second to callers that wait for theirs."""
    return (await loaded(server.address, mix, photos, ClosedLoop(CALLERS, 6.0, warm_up=4.0))).all.goodput


def overload(
    load: LoadFigures,
    capacities: tuple[float, float],
    spent: Rows,
    refusals: list[float],
    uneasy: float,
    memory: float,
) -> Overload:
    """The figures together."""
    all_, nothing = load.all, float("nan")
    return Overload(
        capacity=capacities[0],
        capacity_after=capacities[1],
        offered=all_.offered,
        goodput=all_.goodput / capacities[0],
        refused=all_.codes.get(REFUSED, 0) / all_.requests,
        answer_p50=all_.ok.p50 if all_.ok else nothing,
        answer_p95=all_.ok.p95 if all_.ok else nothing,
        refusal_p50=all_.refused.p50 if all_.refused else nothing,
        refusal_p95=all_.refused.p95 if all_.refused else nothing,
        refusal_server_p95=float(np.percentile(refusals, 95)) if refusals else nothing,
        unanswered=spent.unanswered / max(spent.all, 1.0),
        uneasy=uneasy,
        memory=memory,
        codes=all_.codes,
        warnings=load.warnings,
    )


async def unease(server: serving.Server, mix: list[MixEntry], photos: list[bytes], bound: float) -> float:
    """Seconds after the load in which a lone caller was still answered more slowly than the bound, of REST at most."""
    begin, last = time.monotonic(), 0.0
    while time.monotonic() < begin + REST:
        asked = (await loaded(server.address, mix, photos, ClosedLoop(1, 60.0, requests=5))).all
        if asked.ok is None or asked.ok.max > bound:
            last = time.monotonic() - begin
    return last


def memory(server: serving.Server) -> float:
    """Bytes of anonymous memory of the server's processes."""
    infos = [each.memory_info() for each in (psutil.Process(server.process.pid), *server.front_ends, *server.workers)]
    return float(sum(info.rss - info.shared for info in infos))


def rows(server: serving.Server) -> Rows:
    """Counted so far."""
    return Rows(server.metric("gradserve_step_rows_sum"), server.metric("gradserve_rows_unanswered_total"))


def refusals(log: str) -> list[float]:
    """Seconds in the server of the refusals in a log."""
    requests = [json.loads(line[line.index("{") :]) for line in log.splitlines() if '{"id"' in line]
    return [each["ms"] / 1000 for each in requests if each["code"] == REFUSED]


def table(found: dict[tuple[str, float], list[Overload]], times: float) -> Table:
    """Medians of the rounds, and their ranges."""
    columns = [
        "capacity/s, after",
        "goodput",
        "refused",
        "answers p50, p95",
        "refusals p50, p95, in the server",
        "unanswered rows",
    ]
    made = report.table(f"{times:g} times the capacity", ["model", "deadline"], [*columns, "uneasy s", "memory"])
    for (name, deadline), runs in found.items():
        of = {key: [getattr(each, key) for each in runs] for key in FIGURES}
        goodput = report.shown(report.Spread.of([100 * each for each in of["goodput"]]), 0)
        medians = {key: median(values) for key, values in of.items()}
        made.add_row(
            name,
            f"{deadline:g} s",
            "{capacity:.0f}, {capacity_after:.0f}".format(**medians),
            f"{goodput} %",
            f"{100 * medians['refused']:.1f} %",
            "{answer_p50:.2f}, {answer_p95:.2f} s".format(**medians),
            "{:.0f}, {:.0f}, {:.0f} ms".format(
                *(1000 * medians[f"refusal_{each}"] for each in ("p50", "p95", "server_p95"))
            ),
            f"{100 * medians['unanswered']:.1f} %",
            f"{max(of['uneasy']):.1f}",
            f"{max(of['memory']):.2f}",
        )
    return made


if __name__ == "__main__":
    typer.run(main)
