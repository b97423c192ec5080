"""gradserve beside servers that one would write otherwise: the same requests, callers and cores, in turn.

`python -m tests.bench.peers --help`
"""

import asyncio
import base64
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import Annotated, NamedTuple

import grpc
import httpx
import psutil
import torch
import typer
from rich.progress import track
from rich.table import Table

from gradserve.v1 import service_pb2_grpc
from gradserve_server.pool.forking import prepare_environment

from ..ports import free_ports
from . import report
from .loop import GRADIENT
from .peer import CLASS, METHODS, MIX
from .processes import PATIENCE, child, family
from .report import Spread, shown
from .serving import Server, kinds, photo, served
from .weather import gflops

WARM_UP = 16  # Requests at the start that are not counted.
SIDE = 224
NAMES = ("captum", "litserve", "exact", "balanced", "fast")

Ask = Callable[[str], Awaitable[None]]


class Sample(NamedTuple):
    """A request and its latency."""

    method: str
    seconds: float


@dataclass(frozen=True)
class Seen:
    """One server under one mix: all rounds together; times in ms. `bf16` is what the machine gave before each round."""

    server: str
    mix: str
    requests: int
    requests_per_second: Spread
    cpu_per_request: Spread
    bf16: Spread
    p50: dict[str, float]
    p95: dict[str, float]
    p99: dict[str, float]


class Round(NamedTuple):
    """One server's turn: its seconds and CPU seconds, and GFLOP per second of plain bfloat16 products before."""

    samples: list[Sample]
    seconds: float
    cpu: float
    bf16: float


@dataclass(frozen=True)
class Peer:
    """A running server: how to ask it, and its processes."""

    ask: Ask
    processes: tuple[psutil.Process, ...]

    def cpu(self) -> float:
        """CPU seconds so far."""
        times = [process.cpu_times() for process in self.processes]
        return sum(each.user + each.system for each in times)


def main(
    server: Annotated[list[str], typer.Option(help=f"Of {', '.join(NAMES)}; repeat.")] = list(NAMES),  # noqa: B006
    mix: Annotated[list[str], typer.Option(help="gradient or mix; repeat.")] = ["gradient", "mix"],  # noqa: B006
    model: Annotated[str, typer.Option(help="A torchvision classifier of 224 px.")] = "resnet18",
    callers: Annotated[int, typer.Option(min=1, help="Callers at once.")] = 16,
    requests: Annotated[int, typer.Option(min=1, help="To each server in each round.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="All servers in turn, so many times.")] = 3,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Closed loops of callers: a 224 px JPEG in, a PNG out; all servers have two cores, one at a time.

    captum: plain gRPC, Captum and torchattacks in float32, one request at a time under a lock. litserve: batches of 8
    by method, bfloat16, two workers. exact, balanced, fast: gradserve.
    """
    found = asyncio.run(measure(server, mix, model, callers, requests, rounds))
    report.deliver({"peers": [asdict(each) for each in found]}, [table(found), latencies(found)], as_json, out)


async def measure(
    servers: list[str], mixes: list[str], model: str, callers: int, requests: int, rounds: int
) -> list[Seen]:
    """Starts what is needed, then all in turn."""
    found = []
    prepare_environment()  # The peers have what this project's server gives its workers.
    async with AsyncExitStack() as stack:
        peers = await started(servers, model, stack)
        for name in mixes:
            shares = MIX if name == "mix" else GRADIENT
            turns: dict[str, list[Round]] = {each: [] for each in servers}
            for i in track(range(rounds), name, console=report.console, transient=True):
                for each in servers:
                    with alone(peers[each], peers.values()):
                        turns[each].append(await loop(peers[each], shares, callers, requests, seed=i))
            found += [seen(each, name, turns[each]) for each in servers]
    return found


@contextmanager
def alone(peer: Peer, peers: Iterable[Peer]) -> Iterator[None]:
    """Halts the others meanwhile: an idle server may poll (LitServe's takes a third of a core)."""
    others = {process for each in peers for process in each.processes} - set(peer.processes)
    try:
        for process in others:
            process.suspend()
        yield
    finally:
        for process in others:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def seen(server: str, mix: str, turns: list[Round]) -> Seen:
    """All rounds of one server."""
    samples = [sample for turn in turns for sample in turn.samples]
    times = {m: [1000 * s.seconds for s in samples if s.method == m] for m in METHODS}
    cuts = {m: quantiles(t, n=100, method="inclusive") for m, t in times.items() if len(t) > 1}
    return Seen(
        server,
        mix,
        len(samples),
        Spread.of([len(turn.samples) / turn.seconds for turn in turns]),
        Spread.of([1000 * turn.cpu / len(turn.samples) for turn in turns]),
        Spread.of([turn.bf16 for turn in turns]),
        *({m: round(cut[at - 1], 1) for m, cut in cuts.items()} for at in (50, 95, 99)),
    )


async def loop(peer: Peer, mix: Mapping[str, int], callers: int, requests: int, seed: int) -> Round:
    """From the first counted answer to the last."""
    bf16 = gflops(torch.bfloat16)
    order = [method for method, share in mix.items() for _ in range(share)]
    chance = random.Random(seed)
    samples: list[Sample] = []
    marks: list[tuple[float, float]] = []
    answers = 0

    async def caller() -> None:
        nonlocal answers
        while answers < WARM_UP + requests:
            method, begin = chance.choice(order), time.perf_counter()
            await peer.ask(method)
            answers += 1
            if answers in (WARM_UP, WARM_UP + requests):
                marks.append((time.perf_counter(), peer.cpu()))
            if WARM_UP < answers <= WARM_UP + requests:
                samples.append(Sample(method, time.perf_counter() - begin))

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    (begin, before), (end, after) = marks
    return Round(samples, end - begin, after - before, bf16)


async def started(servers: list[str], model: str, stack: AsyncExitStack) -> dict[str, Peer]:
    """The servers by name; gradserve's precisions are one server."""
    jpeg, peers = photo(SIDE), {}
    if "captum" in servers:
        peers["captum"] = await stack.enter_async_context(captum(model, jpeg))
    if "litserve" in servers:
        peers["litserve"] = await stack.enter_async_context(litserve(model, "fast", jpeg))
    if ours := [name for name in servers if name in ("exact", "balanced", "fast")]:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "server.toml").write_text(f'[models.{model}]\nweights = "random"\n')
        server = stack.enter_context(served(folder / "server.toml", len(os.sched_getaffinity(0))))
        for name in ours:
            peers[name] = await stack.enter_async_context(gradserve(server, name, jpeg))
    return peers


@asynccontextmanager
async def gradserve(server: Server, precision: str, jpeg: bytes) -> AsyncIterator[Peer]:
    """This project's, with requests made once."""
    requests = dict(zip(METHODS, kinds("", jpeg, CLASS, precision), strict=True))
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = service_pb2_grpc.GradientServiceStub(channel)

        async def ask(method: str) -> None:
            rpc, message = requests[method]
            await getattr(stub, rpc)(message)

        yield Peer(ask, server.processes)


@asynccontextmanager
async def captum(model: str, jpeg: bytes) -> AsyncIterator[Peer]:
    """Plain gRPC."""
    with child("peer_captum", model) as process:
        assert process.stdout is not None
        port = int(await asyncio.to_thread(process.stdout.readline))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/peer/Ask")

            async def ask(method: str) -> None:
                await call(bytes([METHODS.index(method)]) + jpeg)

            yield Peer(ask, family(process.pid))


@asynccontextmanager
async def litserve(model: str, precision: str, jpeg: bytes) -> AsyncIterator[Peer]:
    """HTTP."""
    (port,) = free_ports()
    body = {method: {"method": method, "image": base64.b64encode(jpeg).decode()} for method in METHODS}
    with child("peer_litserve", model, precision, str(port)) as process:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            await healthy(client)

            async def ask(method: str) -> None:
                (await client.post("/predict", json=body[method])).raise_for_status()

            yield Peer(ask, family(process.pid))


async def healthy(client: httpx.AsyncClient) -> None:
    """Waits until the workers have loaded."""
    late = time.monotonic() + PATIENCE
    while time.monotonic() < late:
        try:
            if (await client.get("/health")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.5)
    raise TimeoutError("the peer did not start")


def table(found: list[Seen]) -> Table:
    """Rates, and each against Captum's."""
    columns = ["requests", "requests/s", "against captum", "by round", "CPU ms", "captum's / CPU", "bf16 GFLOP/s"]
    made = report.table("The same requests to each server in turn", ["mix", "server"], columns)
    for each in found:
        rates = {other.server: other for other in found if other.mix == each.mix}
        base = rates.get("captum")
        against = rounds = cpu = "-"
        if base is not None:
            ours, theirs = each.requests_per_second, base.requests_per_second
            against = f"{ours.median / theirs.median:.2f}"
            rounds = shown(Spread.of([a / b for a, b in zip(ours.rounds, theirs.rounds, strict=True)]), 1)
            cpu = f"{base.cpu_per_request.median / each.cpu_per_request.median:.2f}"
        rate, spent = f"{each.requests_per_second.median:.2f}", f"{each.cpu_per_request.median:.1f}"
        machine = shown(each.bf16, 0)
        made.add_row(each.mix, each.server, str(each.requests), rate, against, rounds, spent, cpu, machine)
    return made


def latencies(found: list[Seen]) -> Table:
    """By method."""
    made = report.table("Latencies in ms: p50 / p95 / p99", ["mix", "server"], list(METHODS))
    for each in found:
        cells = [
            f"{each.p50[m]:.0f} / {each.p95[m]:.0f} / {each.p99[m]:.0f}" if m in each.p50 else "-" for m in METHODS
        ]
        made.add_row(each.mix, each.server, *cells)
    return made


if __name__ == "__main__":
    typer.run(main)
