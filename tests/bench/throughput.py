"""What the service costs on top of torch: rows per second with many callers, milliseconds for a lone one.

`python -m tests.bench.throughput --help`
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from . import report
from .loop import GRADIENT, SERVED_MIX
from .peer import METHODS, MIX
from .raw import Parts, RawLoops, Stretch, raw_loops
from .report import Spread, shown
from .serving import CATALOGUE, Caller, Server, Window, closed_loop, explain, kinds, photo, served

MODELS = ("resnet18", "cifar10-net", "digits", "nothing")
CLASS = 0
TARGETS: dict[str, int | None] = {"a named class": CLASS, "the top class": None}
MIXED = ("resnet18", "cifar10-net")
SHARES = dict(zip(METHODS, MIX.values(), strict=True))


@dataclass(frozen=True)
class Load:
    """Many callers asking for `asked`, beside the raw loops of the same rounds; CPU in ms.

    `others` is how many processors were busy with something else: above zero, trust the CPU figures only.
    """

    model: str
    precision: str
    asked: str
    callers: int
    raw_requests_per_second: Spread
    requests_per_second: Spread
    ratio: Spread
    raw_cpu_per_request: Spread
    server_cpu_per_request: Spread
    caller_cpu_per_request: Spread
    cpu_ratio: Spread
    others: Spread


@dataclass(frozen=True)
class Lone:
    """One caller at a time, beside plain code in turn; everything in ms."""

    model: str
    target: str
    requests: int
    latency: Spread
    plain: float
    decode: float
    compute: float
    encode: float
    overhead: float


@dataclass(frozen=True)
class Plan:
    """How long to measure what."""

    callers: int
    rounds: int
    seconds: float
    lone: int
    precision: str = "exact"
    kernels: bool = False


def main(
    model: Annotated[list[str], typer.Option(help="Repeat for several.")] = list(MODELS),  # noqa: B006  typer copies it
    callers: Annotated[int, typer.Option(min=1, help="Callers at once.")] = 16,
    precision: Annotated[str, typer.Option(help="exact, balanced or fast.")] = "exact",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of raw loop and service in turn.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each measurement in a round.")] = 5.0,
    lone: Annotated[int, typer.Option(min=1, help="Requests of the lone caller.")] = 40,
    processes: Annotated[int | None, typer.Option(min=1, help="Workers and raw processes; default: one per core.")] = (
        None
    ),
    kernels: Annotated[
        bool, typer.Option("--kernels", help="The loop has this project's convolutions as well.")
    ] = False,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Gradients through gRPC (JPEG in, PNG map out) against a bare torch loop, in turn, in one run.

    Both sides have the same folded network in channels_last, precision, row cap and number of single-threaded
    processes, and do the methods' own arithmetic. The loop has torch's own operations; with --kernels, and beside the
    lone caller, this project's. `nothing` is a network that costs nothing: what is left is
    decode, bind, cross to a worker and encode.

    Example: python -m tests.bench.throughput --model resnet18 --rounds 3
    """
    loads, lones = measure(model, Plan(callers, rounds, seconds, lone, precision, kernels), processes)
    document = {"throughput": [asdict(each) for each in loads], "lone_caller": [asdict(each) for each in lones]}
    report.deliver(document, [load_table(loads), lone_table(lones)], as_json, out)


def measure(models: Sequence[str], plan: Plan, processes: int | None) -> tuple[list[Load], list[Lone]]:
    """Starts both sides once and measures model after model."""
    count = processes or len(os.sched_getaffinity(0))
    loads: list[Load] = []
    lones: list[Lone] = []
    with tempfile.TemporaryDirectory() as folder:
        catalogue = Path(folder) / "catalogue.toml"
        catalogue.write_text(CATALOGUE)
        with raw_loops(catalogue, count) as raw, served(catalogue, count) as server:
            for model in models:
                loads += under_load(model, plan, raw, server)
                lones += alone(model, plan, raw, server)
    return loads, lones


def under_load(model: str, plan: Plan, raw: RawLoops, server: Server) -> list[Load]:
    """The raw loop, then the requests, of each kind, and again."""
    jpeg = photo(raw.side(model))
    asked = {name: [explain(model, jpeg, target, plan.precision)] for name, target in TARGETS.items()}
    if model in MIXED:
        each = dict(zip(METHODS, kinds(model, jpeg, CLASS, plan.precision), strict=True))
        asked["the mix"] = [each[method] for method, share in SHARES.items() for _ in range(share)]
    plain: dict[str, list[list[Stretch]]] = {name: [] for name in asked}
    windows: dict[str, list[Window]] = {name: [] for name in asked}
    for _ in track(range(plan.rounds), f"{model}: load", console=report.console, transient=True):
        for name, requests in asked.items():
            mix = SERVED_MIX if name == "the mix" else GRADIENT
            plain[name].append(raw.run(model, plan.precision, mix, plan.seconds, plan.kernels))
            windows[name].append(closed_loop(server, requests, plan.callers, plan.seconds))
    return [load(model, name, plan, plain[name], windows[name]) for name in asked]


def load(model: str, asked: str, plan: Plan, raw: Sequence[Sequence[Stretch]], grpc: Sequence[Window]) -> Load:
    """Figures of every round, and their medians."""
    rates = [sum(each.requests / each.seconds for each in stretches) for stretches in raw]
    raw_cpu = [1000 * sum(s.cpu for s in stretches) / sum(s.requests for s in stretches) for stretches in raw]
    server_cpu = [1000 * window.server_cpu / window.answers for window in grpc]
    return Load(
        model=model,
        precision=plan.precision,
        asked=asked,
        callers=plan.callers,
        raw_requests_per_second=Spread.of(rates),
        requests_per_second=Spread.of([window.rate for window in grpc]),
        ratio=Spread.of([window.rate / rate for window, rate in zip(grpc, rates, strict=True)]),
        raw_cpu_per_request=Spread.of(raw_cpu),
        server_cpu_per_request=Spread.of(server_cpu),
        caller_cpu_per_request=Spread.of([1000 * window.caller_cpu / window.answers for window in grpc]),
        cpu_ratio=Spread.of([theirs / ours for theirs, ours in zip(raw_cpu, server_cpu, strict=True)]),
        others=Spread.of([window.others for window in grpc]),
    )


def alone(model: str, plan: Plan, raw: RawLoops, server: Server) -> list[Lone]:
    """One request of each target and one gradient by plain code, in turn."""
    jpeg = photo(raw.side(model))
    requests = {name: explain(model, jpeg, target, plan.precision) for name, target in TARGETS.items()}
    caller = Caller(server)
    latencies: dict[str, list[float]] = {name: [] for name in TARGETS}
    plain: list[Parts] = []
    for i in track(range(-2, plan.lone), f"{model}: lone caller", console=report.console, transient=True):
        parts, took = (
            raw.lone(model, plan.precision, jpeg),
            {name: caller(request) for name, request in requests.items()},
        )
        if i >= 0:  # The first two rounds only warm up.
            plain.append(parts)
            for name, seconds in took.items():
                latencies[name].append(1000 * seconds)
    caller.close()
    return [lone_caller(model, name, found, plain) for name, found in latencies.items()]


def lone_caller(model: str, target: str, latencies: Sequence[float], plain: Sequence[Parts]) -> Lone:
    """Medians, and what the service adds to plain code."""
    latency = Spread.of(latencies)
    whole = 1000 * median(sum(parts) for parts in plain)
    decode, compute, encode = (1000 * median(times) for times in zip(*plain, strict=True))
    overhead = latency.median - whole
    return Lone(model, target, len(latencies), latency, whole, decode, compute, encode, overhead)


def load_table(found: Sequence[Load]) -> Table:
    """Medians, with the range of the rounds in brackets."""
    columns = ["raw/s", "served/s", "ratio", "raw CPU", "server CPU", "ratio", "others"]
    callers = found[0].callers if found else 0
    title = f"{callers} callers against the raw loop; CPU in ms for each request; processors others used"
    made = report.table(title, ["model", "asked"], columns)
    for each in found:
        rates = [shown(spread, 1) for spread in (each.raw_requests_per_second, each.requests_per_second)]
        cpu = [f"{spread.median:.1f}" for spread in (each.raw_cpu_per_request, each.server_cpu_per_request)]
        made.add_row(
            f"{each.model} {each.precision}",
            each.asked,
            *rates,
            shown(each.ratio, 2),
            *cpu,
            f"{each.cpu_ratio.median:.2f}",
            f"{each.others.median:.1f}",
        )
    return made


def lone_table(found: Sequence[Lone]) -> Table:
    """Medians in milliseconds."""
    columns = ["latency", "plain", "decode", "pass", "encode", "overhead"]
    made = report.table("A lone caller against plain code, ms", ["gradient of", "target"], columns)
    for each in found:
        times = [f"{value:.1f}" for value in (each.plain, each.decode, each.compute, each.encode, each.overhead)]
        made.add_row(each.model, each.target, shown(each.latency, 1), *times)
    return made


if __name__ == "__main__":
    typer.run(main)
