"""A real server to measure, the catalogue it serves, the request it gets, and what its processes cost."""

import asyncio
import io
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from PIL import Image
from sklearn.datasets import load_sample_image

from gradserve import messages
from gradserve.arguments import Options
from gradserve.cli.launch import launched
from gradserve.v1 import explain_pb2, service_pb2_grpc

CATALOGUE = """
[models.resnet18]
weights = "random"

[models.cifar10-net]
builder = "gradserve_server.models.embedded.cifar10.network:cifar10"
weights = "random"
height = 32
width = 32

[models.digits]
"""
RAMP = 1.0  # seconds until the callers' first requests are answered and batches are full
ENOUGH = 3  # answers to each caller in a window: they come in bursts, a batch at a time
QUALITY = 90


@dataclass(frozen=True)
class Window:
    """What a closed loop of callers saw within a stretch of time."""

    answers: float
    seconds: float
    server_cpu: float  # CPU seconds of all the server's processes
    caller_cpu: float  # and of this one
    machine_cpu: float  # and of everything on the machine

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
    """A real photo as a JPEG whose shorter side has so many pixels."""
    picture = Image.fromarray(load_sample_image("china.jpg"))
    scale = side / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    file = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def gradient_request(model: str, jpeg: bytes, target: int | None) -> explain_pb2.ExplainRequest:
    """JPEG in, PNG map out; without a target it is the predicted class's."""
    return messages.explain_request(
        jpeg,
        "gradient",
        target=target,
        model=model,
        preprocess="model_default",
        format="png",
        overlay=False,
        shorthand={},
        options=Options(precision="exact"),
    )


def closed_loop(server: Server, request: explain_pb2.ExplainRequest, callers: int, seconds: float) -> Window:
    """So many callers, each sending again when answered, while all are still at it.

    Counted after a ramp, from one answer to another, for so many seconds or more: until each caller had ENOUGH.
    """
    return asyncio.run(_closed_loop(server, request, callers, seconds))


async def _closed_loop(server: Server, request: explain_pb2.ExplainRequest, callers: int, seconds: float) -> Window:
    """`closed_loop` on its event loop."""
    answers, over, arrived = 0, False, asyncio.Event()

    async def caller(explain: grpc.aio.UnaryUnaryMultiCallable) -> None:
        """Asks again and again."""
        nonlocal answers
        while not over:
            await explain(request)
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
                group.create_task(caller(stub.Explain))
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

    def __call__(self, request: explain_pb2.ExplainRequest) -> float:
        """Seconds until the answer."""
        begin = time.perf_counter()
        self._explain(request)
        return time.perf_counter() - begin

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()
