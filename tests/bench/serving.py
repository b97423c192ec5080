"""A real server to measure, the catalogue it serves, the request it gets, and what its processes cost."""

import asyncio
import io
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psutil
from PIL import Image
from skimage.data import astronaut

from gradserve.arguments import Options
from gradserve.cli.demo.local_server import launched
from gradserve.messages.attack import attack_request
from gradserve.messages.explain import explain_request
from gradserve.messages.predict import predict_request
from gradserve.v1 import service_pb2_grpc

from .peer import ALPHA, EPS, NOISE, SAMPLES, STEPS

CATALOGUE = """
[models.resnet18]
weights = "random"

[models.cifar10-net]
builder = "gradserve_server.models.embedded.cifar10.network:cifar10"
weights = "random"
height = 32
width = 32

[models.digits]

[models.nothing]
builder = "tests.bench.nothing:nothing"
weights = "random"
height = 224
width = 224
resize = 224
"""
RAMP = 1.0  # Seconds until the callers' first requests are answered and batches are full.
ENOUGH = 3  # Answers that each caller must have in a window, since they come in bursts, a batch at a time.
QUALITY = 98


@dataclass(frozen=True)
class Window:
    """What a closed loop of callers saw within a stretch of time."""

    answers: float
    seconds: float
    server_cpu: float  # CPU seconds of all the server's processes.
    caller_cpu: float  # CPU seconds of this process.
    machine_cpu: float  # CPU seconds of everything on the machine.

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds

    @property
    def others(self) -> float:
        """Processors that something else was using."""
        return max(0.0, self.machine_cpu - self.server_cpu - self.caller_cpu) / self.seconds


@dataclass(frozen=True)
class Server:
    """A running server's address and processes."""

    address: str
    processes: tuple[psutil.Process, ...]

    def cpu(self) -> tuple[float, float, float]:
        """CPU seconds so far: the server's, this process's, the whole machine's."""
        times = [process.cpu_times() for process in self.processes]
        return sum(each.user + each.system for each in times), time.process_time(), busy()


@contextmanager
def served(catalogue: Path, workers: int) -> Iterator[Server]:
    """Starts a server with one thread for each worker, and stops it at the end."""
    before = set(psutil.Process().children())
    arguments = ["--config", str(catalogue), "--workers", str(workers), "--device", "cpu"]
    with (
        tempfile.TemporaryDirectory() as folder,
        launched(arguments, Path(folder) / "server.log", timeout=300) as address,
    ):
        (own,) = [child for child in psutil.Process().children() if child not in before and is_server(child)]
        yield Server(address, (own, *own.children(recursive=True)))


def busy() -> float:
    """CPU seconds that the whole machine has spent so far."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def is_server(process: psutil.Process) -> bool:
    """Whether a child of ours is the server."""
    with suppress(psutil.Error):
        return "gradserve_server" in process.cmdline()
    return False


def photo(side: int) -> bytes:
    """A square photo of so many pixels as a JPEG; 50 kB at 224."""
    file = io.BytesIO()
    picture = Image.fromarray(astronaut()).resize((side, side), Image.Resampling.LANCZOS)
    picture.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


class Request(NamedTuple):
    """A message and the RPC that it is for."""

    rpc: str
    message: Any


def explain(
    model: str, jpeg: bytes, target: int | None, precision: str, method: str = "gradient", **parameters: Any
) -> Request:
    """JPEG in, PNG map out; without a target it is the predicted class's."""
    message = explain_request(
        jpeg,
        method,
        target=target,
        model=model,
        preprocess="as_is",
        format="png",
        precision=precision,
        **parameters,
    )
    return Request("Explain", message)


def kinds(model: str, jpeg: bytes, target: int, precision: str) -> list[Request]:
    """A request of each of METHODS: gradient, SmoothGrad, ten steps of PGD with their certificate, Predict."""
    options = Options(precision=precision)
    attack = attack_request(
        jpeg,
        "pgd",
        label=target,
        eps=EPS,
        first_success=False,
        model=model,
        preprocess="as_is",
        steps=STEPS,
        step=ALPHA / EPS,
        random_start=False,
        **options,
    )
    return [
        explain(model, jpeg, target, precision),
        explain(model, jpeg, target, precision, "smooth_grad", samples=SAMPLES, noise=NOISE),
        Request("Attack", attack),
        Request("Predict", predict_request(jpeg, model=model, preprocess="as_is", **options)),
    ]


def closed_loop(server: Server, requests: Sequence[Request], callers: int, seconds: float) -> Window:
    """So many callers, each sending one of the requests again when answered, while all are still at it.

    Counted after a ramp, from one answer to another, for so many seconds or more: until each caller had ENOUGH.
    """
    return asyncio.run(_closed_loop(server, requests, callers, seconds))


async def _closed_loop(server: Server, requests: Sequence[Request], callers: int, seconds: float) -> Window:
    """`closed_loop` on its event loop."""
    answers, over, arrived, chance = 0, False, asyncio.Event(), random.Random(0)

    async def caller(stub: service_pb2_grpc.GradientServiceStub) -> None:
        """Asks again and again."""
        nonlocal answers
        while not over:
            rpc, message = chance.choice(requests)
            await getattr(stub, rpc)(message)
            answers += 1
            arrived.set()

    async def mark(at_least: int) -> tuple[float, ...]:
        """The counters at the first answer from now on that makes so many."""
        arrived.clear()
        await arrived.wait()
        while answers < at_least:
            arrived.clear()
            await arrived.wait()
        return (answers, time.perf_counter(), *server.cpu())

    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = service_pb2_grpc.GradientServiceStub(channel)
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller(stub))
            await asyncio.sleep(RAMP)
            before = await mark(callers)
            await asyncio.sleep(seconds)
            after = await mark(int(before[0]) + ENOUGH * callers)
            over = True
    return Window(*(b - a for a, b in zip(before, after, strict=True)))


class Caller:
    """A lone caller."""

    def __init__(self, server: Server) -> None:
        """Connects."""
        self._channel = grpc.insecure_channel(server.address)
        self._explain = service_pb2_grpc.GradientServiceStub(self._channel).Explain

    def __call__(self, request: Request) -> float:
        """Seconds until the answer of an Explain."""
        begin = time.perf_counter()
        self._explain(request.message)
        return time.perf_counter() - begin

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()
