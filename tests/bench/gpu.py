"""All that is to be seen on a GPU, in one run of minutes: tests, CUDA graphs, rows through gRPC, jobs together.

`python -m tests.bench.gpu`; with `--device cpu` it runs on small networks where there is no GPU.
"""

import asyncio
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from PIL import Image
from skimage.data import astronaut, coffee

from gradserve import Client
from gradserve.load.loops import ClosedLoop
from gradserve.load.mix import MixEntry
from gradserve_server.engine.batch_limits import default_rows
from gradserve_server.engine.cuda_graphs import MIN_GRAPH_USES, CudaGraph, Outputs, Recordings, cuda_graph, inputs_of
from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Part, Query
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

from .. import serving
from ..loads import loaded
from . import report
from .serving import photo

ROOT = Path(__file__).parents[2]
TESTS_SECONDS = 150  # Longest time of the tests.
CONNECTIONS = 8  # Of each process that calls, so that all front-ends have callers.
WARM_UP_SECONDS = 2.0
# Front-ends and workers of the servers that are tried, in this order while there is time.
SERVERS = ((1, 1), (4, 2), (8, 3), (8, 1), (4, 1), (8, 2), (1, 2), (4, 3), (1, 3))
TITLES = {
    "tests": "Tests that need a GPU",
    "graphs": "Gradient passes, ms: plain and as a CUDA graph",
    "service": "Rows per second, a named class: raw loop of CUDA graphs, and through gRPC (JPEG in, PNG out)",
    "stylize": "Stylize jobs, s",
}


@dataclass(frozen=True)
class Setup:
    """What is measured on a device."""

    networks: str  # Eight of torchvision.
    side: int  # Pixels of their pictures.
    rows: tuple[int, ...]  # Of passes.
    served: str  # The network of the servers, beside squeezenet1_0 for the jobs.
    callers: int  # Requests under way for each worker.
    steps: int  # Of each job.


LARGE = "resnet18 resnet50 mobilenet_v2 densenet121 efficientnet_b0 convnext_tiny vit_b_16 swin_t"
SMALL = "resnet18 mobilenet_v2 squeezenet1_0 shufflenet_v2_x0_5 mnasnet0_5 mobilenet_v3_small regnet_y_400mf alexnet"
SETUPS = {
    "cuda": Setup(LARGE, 224, (1, 8, 64), "resnet50", callers=160, steps=50),
    "cpu": Setup(SMALL, 64, (1, 4), "resnet18", callers=8, steps=3),
}


class Budget:
    """The time that is left. A part that would take too long is left out, and told."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._longest: dict[str, float] = {}

    def fitting(self, part: str, items: Sequence[Any]) -> Iterator[Any]:
        """The items as long as there is time for another one that takes as long as the longest so far."""
        for item in items:
            begin = time.monotonic()
            if begin + self._longest.get(part, 0.0) > self._end:
                report.console.print(f"[yellow]no time left: {part} {item} is left out[/]")
                continue
            yield item
            self._longest[part] = max(self._longest.get(part, 0.0), time.monotonic() - begin)


def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu for small networks.")] = "cuda",
    minutes: Annotated[float, typer.Option(min=0.1, help="Parts that would end later are left out.")] = 7.5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each measurement.")] = 5.0,
    callers: Annotated[int, typer.Option(min=1, help="Processes that call.")] = 4,
    jobs: Annotated[int, typer.Option(min=1, help="Stylize jobs.")] = 8,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Runs the tests that need a GPU, and measures what was not seen without one. Random weights, EXACT.

    Example: python -m tests.bench.gpu --out gpu.json
    """
    if device not in SETUPS:
        raise typer.BadParameter("take cuda or cpu", param_hint="--device")
    budget, setup = Budget(60 * minutes), SETUPS[device]
    for library in (torch.backends.cuda.matmul, torch.backends.cudnn):
        library.allow_tf32 = False  # type: ignore[attr-defined]  # As in workers.
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in TITLES}
    found["tests"].append({"result": tests()})
    for name in budget.fitting("graphs", setup.networks.split()):
        with going_on(name):
            model = prepare(spec_of(name, setup.side), torch.device(device))
            found["graphs"] += [{"model": name, **passes(model, rows, seconds / 10)._asdict()} for rows in setup.rows]
    found["service"].append({"server": "raw loop", "rows": raw_loop(device, setup, seconds)})
    with ProcessPoolExecutor(callers, multiprocessing.get_context("spawn")) as pool:
        for front_ends, workers in budget.fitting("service", SERVERS):
            name = f"{front_ends} front-ends, {workers} workers"
            with going_on(name), server_of(device, setup, front_ends, workers) as server:
                rate = served_rows(server, setup, workers, seconds, pool, callers)
                found["service"].append({"server": name, "rows": rate})
                if not found["stylize"]:
                    found["stylize"].append(together(server.address, setup, jobs))
    kind = torch.cuda.get_device_name() if device == "cuda" else device
    report.deliver({"gpu": {"device": kind, **found}}, list(tables(found)), as_json, out)


@contextmanager
def going_on(what: str) -> Iterator[None]:
    """Tells what went wrong inside, so that the rest is measured all the same."""
    try:
        yield
    except Exception as error:
        report.console.print(f"{what}: {type(error).__name__}: {error}", style="red", markup=False)


def tests() -> str:
    """The last line of the tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(ROOT / "tests/engine")]
    try:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"they have not ended within {TESTS_SECONDS} s"
    if ended.returncode:
        report.console.print(ended.stdout, markup=False)
    return ended.stdout.strip().splitlines()[-1]


def spec_of(name: str, side: int) -> ModelSpec:
    """A network of torchvision with random weights."""
    size = {"height": side, "width": side, "resize": side}
    return ModelSpec.model_validate({"name": name, "weights": "random", "precisions": ("exact",), **size})


def rerun(function: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
    """Stands in for `cuda_graph` on a CPU: runs the function again."""
    kept = function()

    def replay() -> None:
        for old, new in zip(kept, function(), strict=True):
            old.copy_(new)

    return kept, replay


def parts_of(model: Prepared, rows: int) -> list[Part]:
    """Gradients of a named class for so many random pictures, on the model's device."""
    generator = torch.Generator().manual_seed(rows)
    images = torch.rand(rows, 3, model.card.height, model.card.width, generator=generator).to(model.device)
    return [Part(Query(images, logit(0), "image"), range(rows))]


class Passes(NamedTuple):
    """Milliseconds of a pass, their ratio, and how far the graph's gradients are off; NaN where nothing is recorded."""

    rows: int
    plain: float
    graph: float
    ratio: float
    distance: float


def passes(model: Prepared, rows: int, seconds: float) -> Passes:
    """Plain passes and replayed ones in turn."""
    parts, recordings = parts_of(model, rows), Recordings(cuda_graph if model.device.type == "cuda" else rerun)
    for _ in range(MIN_GRAPH_USES):
        answers = recordings.answers(model, parts)
    if answers is None:
        return Passes(rows, pass_ms(lambda: differentiate(model, parts), model.device, seconds), *3 * (float("nan"),))
    (plain,), (graph,) = differentiate(model, parts), answers
    assert plain.image_grad is not None
    assert graph.image_grad is not None
    distance = float((plain.image_grad - graph.image_grad).norm() / plain.image_grad.norm())
    times: list[tuple[float, float]] = []
    for _ in range(3):
        own = pass_ms(lambda: differentiate(model, parts), model.device, seconds / 3)
        times.append((own, pass_ms(lambda: recordings.answers(model, parts), model.device, seconds / 3)))
    plain_ms, graph_ms = (median(each) for each in zip(*times, strict=True))
    return Passes(rows, plain_ms, graph_ms, plain_ms / graph_ms, distance)


def pass_ms(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Milliseconds of one run, over many."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    run()
    wait()
    count, begin = 0, time.perf_counter()
    while not count or time.perf_counter() - begin < seconds:
        run()
        wait()
        count += 1
    return 1000 * (time.perf_counter() - begin) / count


def raw_loop(device: str, setup: Setup, seconds: float) -> float:
    """Rows per second of full batches of 8-bit pictures from the host, whose maps [n, H, W] go back to it."""
    model = prepare(spec_of(setup.served, setup.side), torch.device(device))
    rows = default_rows(model.device, setup.side, setup.side)
    inputs = inputs_of(parts_of(model, rows))
    graph = CudaGraph(model, rows, inputs, cuda_graph if device == "cuda" else rerun)
    pixels = (255 * inputs.images.cpu()).to(torch.uint8)

    def run() -> None:
        graph(inputs._replace(images=pixels.to(model.device) / 255)).grads.abs().sum(1).cpu()

    return 1000 * rows / pass_ms(run, model.device, seconds)


def server_of(device: str, setup: Setup, front_ends: int, workers: int) -> serving.Server:
    """A server of both networks; all workers are on one GPU."""
    size = f"height = {setup.side}\nwidth = {setup.side}\nresize = {setup.side}"
    names = dict.fromkeys((setup.served, "squeezenet1_0"))
    models = "\n".join(f"[models.{name}]\nweights = 'random'\nprecisions = ['exact']\n{size}" for name in names)
    limits = f"[limits]\nmax_in_flight = {4 * setup.callers * workers + 100}\n"
    flags = ["--device", device, "--front-ends", str(front_ends), "--workers", str(workers)]
    return serving.Server(limits + models, *flags)


def served_rows(
    server: serving.Server, setup: Setup, workers: int, seconds: float, pool: ProcessPoolExecutor, processes: int
) -> float:
    """Answers per second to callers in several processes."""
    count = max(1, setup.callers * workers // processes)
    calls = [pool.submit(ask, server.address, setup.served, setup.side, count, seconds) for _ in range(processes)]
    return sum(call.result() for call in calls)


def ask(address: str, model: str, side: int, callers: int, seconds: float) -> float:
    """What each process does that calls; returns its answers per second. Raises ValueError where a call failed."""
    parameters = {"target": 0, "preprocess": "as_is", "format": "png"}
    mix = [MixEntry("explain", method="gradient", model=model, parameters=parameters)]
    loop = ClosedLoop(callers, seconds, WARM_UP_SECONDS)
    found = asyncio.run(loaded(address, mix, [photo(side)], loop, connections=CONNECTIONS)).all
    if found.codes.keys() != {"OK"}:
        raise ValueError(f"not all were answered: {found.codes}")
    return found.answered


def together(address: str, setup: Setup, jobs: int) -> dict[str, float]:
    """Seconds of so many jobs together, and one after another."""
    content, style = (
        np.asarray(Image.fromarray(picture).resize((setup.side, setup.side))) for picture in (astronaut(), coffee())
    )
    with Client(address) as client, ThreadPoolExecutor(jobs) as pool:

        def job(seed: int) -> object:
            facts = {"model": "squeezenet1_0", "size": setup.side, "steps": setup.steps, "seed": seed}
            return client.stylize(content, style, **facts)

        job(0)
        begin = time.perf_counter()
        list(pool.map(job, range(jobs)))
        both = time.perf_counter() - begin
        for seed in range(jobs):
            job(seed)
        after_another = time.perf_counter() - begin - both
    return {"jobs": jobs, "together": both, "one after another": after_another, "ratio": after_another / both}


def tables(found: dict[str, list[dict[str, Any]]]) -> Iterator[Any]:
    """One for each part that was run."""
    for part, rows in found.items():
        if rows:
            first, *others = rows[0]
            table = report.table(TITLES[part], [first], others)
            for row in rows:
                table.add_row(*(each if isinstance(each, str) else f"{each:.4g}" for each in row.values()))
            yield table


if __name__ == "__main__":
    typer.run(main)
