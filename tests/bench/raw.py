"""The same network without a service: processes that run plain torch loops, each with one thread."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.pictures.images import decode, png, preprocess
from gradserve_server.config import LimitSettings
from gradserve_server.models.card import Precision
from gradserve_server.models.catalogue import read_catalogue
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared
from gradserve_server.pool.forking import prepare_environment

from . import loop


class Stretch(NamedTuple):
    """What one raw process did for a while."""

    requests: int
    seconds: float
    cpu: float


class Parts(NamedTuple):
    """Seconds of one gradient made by plain code: JPEG to pixels, one pass, map to PNG."""

    decode: float
    compute: float
    encode: float


class RawLoops:
    """Several raw processes, told through pipes; idle while nothing is asked."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        """The pipes to the processes."""
        self._connections = connections

    def side(self, model: str) -> int:
        """The model's input size."""
        self._connections[0].send(("side", model, "exact"))
        return int(self._connections[0].recv())

    def run(self, model: str, precision: str, mix: Mapping[str, int], seconds: float, kernels: bool) -> list[Stretch]:
        """All processes at once; `kernels`: with this project's convolutions instead of torch's."""
        command = "run with kernels" if kernels else "run"
        for connection in self._connections:
            connection.send((command, model, precision, mix, seconds))
        return [connection.recv() for connection in self._connections]

    def lone(self, model: str, precision: str, jpeg: bytes) -> Parts:
        """One gradient, in one of the processes."""
        self._connections[0].send(("lone", model, precision, jpeg))
        return Parts(*self._connections[0].recv())


@contextmanager
def raw_loops(catalogue: Path, processes: int) -> Iterator[RawLoops]:
    """Starts the processes and ends them."""
    prepare_environment()  # The server does the same for its workers.
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(processes)]
    children = [context.Process(target=_main, args=(theirs, catalogue), daemon=True) for _, theirs in pipes]
    for child, (_, theirs) in zip(children, pipes, strict=True):
        child.start()
        theirs.close()  # An open copy would hide that a process has died.
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
    plain = {name: by_torch(model) for name, model in models.items()}
    connection.send("ready")
    commands: dict[str, tuple[Mapping[str, Prepared], Callable[..., Any]]] = {
        "side": (models, side),
        "run": (plain, stretch),
        "run with kernels": (models, stretch),
        "lone": (models, parts),
    }
    while True:
        command, name, precision, *arguments = connection.recv()
        networks, function = commands[command]
        connection.send(function(networks[name], precision, *arguments))


def by_torch(model: Prepared) -> Prepared:
    """The same network, folded and channels_last, with torch's own operations: what one would write by hand."""
    others = {name: by_torch(other) for name, other in model.others.items()}
    return replace(model, kernels=None, others=others)


def side(model: Prepared, _: Precision) -> int:
    """Of the square input."""
    return model.card.height


def stretch(model: Prepared, precision: Precision, mix: Mapping[str, int], seconds: float) -> Stretch:
    """The mix's requests in full batches, one method after another; at least once."""
    cap = loop.cap_of(model.at(precision))
    methods = [method for method, share in mix.items() for _ in range(share * cap)]
    size, generator = (model.card.height, model.card.width), torch.Generator().manual_seed(0)
    images = torch.rand(len(methods), 3, *size, generator=generator)
    requests, begin, cpu = 0, time.perf_counter(), time.process_time()
    while not requests or time.perf_counter() - begin < seconds:
        loop.raw(model, precision, methods, images, cap)
        requests += len(methods)
    return Stretch(requests, time.perf_counter() - begin, time.process_time() - cpu)


def parts(model: Prepared, precision: Precision, jpeg: bytes) -> Parts:
    """One picture from bytes to bytes."""
    limits, begin = LimitSettings(), time.perf_counter()
    pixels, _ = preprocess(decode(pb.Image(encoded=jpeg), limits), model.card, pb.PREPROCESS_AS_IS, limits)
    decoded = time.perf_counter()
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0) / 255
    values = loop.gradient(model.at(precision), image, torch.zeros(1, dtype=torch.long))[0].abs().sum(0).numpy()
    computed = time.perf_counter()
    levels = (values - values.min()) / np.ptp(values)
    png((levels * 255).round().astype(np.uint8))
    return Parts(decoded - begin, computed - decoded, time.perf_counter() - computed)
