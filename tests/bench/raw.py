"""The same network without a service: processes that run plain torch loops, each with one thread."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.images import decode, png, preprocess
from gradserve_server.config import LimitSettings
from gradserve_server.engine.engine import default_rows
from gradserve_server.models.catalogue import read_catalogue
from gradserve_server.models.prepared import Prepared, prepare


class Stretch(NamedTuple):
    """What one raw process did for a while."""

    rows: int
    seconds: float
    cpu: float


class Parts(NamedTuple):
    """Seconds of one gradient made by plain code: JPEG to pixels, one pass, map to PNG."""

    decode: float
    compute: float
    encode: float


class Facts(NamedTuple):
    """What the other side must know of a model to be asked the same."""

    rows: int
    resize: int
    height: int
    width: int


class RawLoops:
    """Several raw processes, told through pipes; idle while nothing is asked."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        """The pipes to the processes."""
        self._connections = connections

    def facts(self, model: str) -> Facts:
        """The model's row cap and input size."""
        self._connections[0].send(("facts", model))
        return Facts(*self._connections[0].recv())

    def run(self, model: str, seconds: float) -> list[Stretch]:
        """All processes at once."""
        for connection in self._connections:
            connection.send(("run", model, seconds))
        return [connection.recv() for connection in self._connections]

    def lone(self, model: str, jpeg: bytes) -> Parts:
        """One gradient, in one of the processes."""
        self._connections[0].send(("lone", model, jpeg))
        return Parts(*self._connections[0].recv())


@contextmanager
def raw_loops(catalogue: Path, processes: int) -> Iterator[RawLoops]:
    """Starts the processes and ends them."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(processes)]
    children = [context.Process(target=_main, args=(theirs, catalogue), daemon=True) for _, theirs in pipes]
    for child in children:
        child.start()
    try:
        for ours, _ in pipes:
            ours.recv()
        yield RawLoops([ours for ours, _ in pipes])
    finally:
        for child in children:
            child.terminate()
            child.join()


def _main(connection: Connection, catalogue: Path) -> None:
    """A process: loads, says ready, does what it is told."""
    torch.set_num_threads(1)
    models = {spec.name: prepare(spec, torch.device("cpu")) for spec in read_catalogue(catalogue)}
    for model in models.values():
        stretch(model, 0.0)
    connection.send("ready")
    commands: dict[str, Callable[..., Any]] = {"facts": facts, "run": stretch, "lone": parts}
    while True:
        command, name, *arguments = connection.recv()
        connection.send(commands[command](models[name], *arguments))


def facts(model: Prepared) -> Facts:
    """The row cap is the engine's own."""
    card = model.card
    return Facts(default_rows(model.device, card.height, card.width), card.resize, card.height, card.width)


def stretch(model: Prepared, seconds: float) -> Stretch:
    """Gradients of full batches, one pass after another; at least one."""
    limit, _, height, width = facts(model)
    pixels = torch.rand(limit, 3, height, width, generator=torch.Generator().manual_seed(0))
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    targets = torch.arange(limit) % len(model.card.classes)
    rows, begin, cpu = 0, time.perf_counter(), time.process_time()
    while not rows or time.perf_counter() - begin < seconds:
        gradient(model, pixels, targets)
        rows += limit
    return Stretch(rows, time.perf_counter() - begin, time.process_time() - cpu)


def gradient(model: Prepared, pixels: Tensor, targets: Tensor) -> Tensor:
    """Of each row's class by its pixels."""
    images = pixels.detach().requires_grad_()
    scores = model(images).gather(1, targets[:, None])
    return torch.autograd.grad(scores.sum(), images)[0]


def parts(model: Prepared, jpeg: bytes) -> Parts:
    """One picture from bytes to bytes."""
    limits, begin = LimitSettings(), time.perf_counter()
    pixels, _ = preprocess(
        decode(pb.Image(encoded=jpeg), limits, model.card.resize), model.card, pb.PREPROCESS_MODEL_DEFAULT, limits
    )
    decoded = time.perf_counter()
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0) / 255
    image = image.contiguous(memory_format=torch.channels_last)
    values = gradient(model, image, torch.zeros(1, dtype=torch.long))[0].abs().sum(0).numpy()
    computed = time.perf_counter()
    levels = (values - values.min()) / np.ptp(values)
    png((levels * 255).round().astype(np.uint8))
    return Parts(decoded - begin, computed - decoded, time.perf_counter() - computed)
