"""What a worker's memory holds: networks of torchvision in EXACT, beside their weights; and how long the start takes.

`python -m tests.bench.memory --help`
"""

import os
import time
from pathlib import Path
from typing import Annotated, NamedTuple
from unittest.mock import patch

import psutil
import torch
import torchvision
import typer

from .. import serving
from . import report

ROOT = Path(__file__).parents[2]
MODELS = (
    "alexnet resnet18 resnet50 vgg11 densenet121 inception_v3 googlenet mobilenet_v2 mobilenet_v3_large "
    "efficientnet_b0 convnext_tiny vit_b_16 swin_t"
)
START_SECONDS = 3600  # Longest wait for a server.
MIB = 1 << 20


class Memory(NamedTuple):
    """A worker's memory in MiB, and the seconds of its start."""

    anonymous: float  # What only memory holds, also what it shares with the process that it was forked from.
    proportional: float  # All that it has, what several processes share divided among them.
    peak: float  # The most that was ever resident.
    cpu_seconds: float


def main(
    models: Annotated[str, typer.Option(help="Names of torchvision, between spaces.")] = MODELS,
    workers: Annotated[int, typer.Option(min=1, help="Workers of the server.")] = 1,
    other: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Another source tree, measured as well.")
    ] = None,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Starts a server with random weights; reads its workers' memory from the system when all are ready.

    The goal is 2.5 times the weights in anonymous memory. It runs on Linux alone.

    Example: python -m tests.bench.memory --models "resnet18 mobilenet_v2" --workers 2
    """
    names = models.split()
    weights = sum(map(weight_of, names))
    found = {name: measured(tree, names, workers) for name, tree in (("there", other), ("here", ROOT)) if tree}
    columns = ["anonymous MiB", "by weights", "proportional MiB", "peak MiB", "start, CPU s", "start, s"]
    table = report.table(f"{len(names)} networks, {weights:.0f} MiB of weights", ["tree", "worker"], columns)
    for name, (seconds, memories) in found.items():
        for place, each in enumerate(memories):
            share = f"{each.anonymous / weights:.2f}"
            sizes = [f"{value:.0f}" for value in (each.proportional, each.peak, each.cpu_seconds, seconds)]
            table.add_row(name, str(place), f"{each.anonymous:.0f}", share, *sizes)
    document = {
        name: {"seconds": seconds, "workers": [each._asdict() for each in memories]}
        for name, (seconds, memories) in found.items()
    }
    report.deliver({"memory": {"weights": weights, **document}}, [table], as_json, out)


def weight_of(name: str) -> float:
    """MiB of a network's parameters in fp32."""
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
    return sum(parameter.numel() for parameter in network.parameters()) * 4 / MIB


def measured(tree: Path, names: list[str], workers: int) -> tuple[float, list[Memory]]:
    """Seconds until a server of that tree is ready, and what its workers have then."""
    config = "\n".join(f"[models.{name}]\nweights = 'random'\nprecisions = ['exact']" for name in names)
    path = os.pathsep.join(map(str, (tree / "client", tree / "server")))
    begin = time.perf_counter()
    with (
        patch.dict(os.environ, {"PYTHONPATH": path}),
        patch.object(serving, "PATIENCE", START_SECONDS),
        serving.Server(config, "--workers", str(workers), "--strict", fresh=True) as server,
    ):
        assert server.address
        return time.perf_counter() - begin, [memory_of(worker) for worker in server.workers]


def memory_of(worker: psutil.Process) -> Memory:
    """As the system tells it."""
    lines = Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines()[1:]
    lines += Path(f"/proc/{worker.pid}/status").read_text().splitlines()
    sizes = {name: value for name, _, value in (line.partition(":") for line in lines)}
    anonymous, proportional, peak = (int(sizes[name].split()[0]) / 1024 for name in ("Anonymous", "Pss", "VmHWM"))
    times = worker.cpu_times()
    return Memory(anonymous, proportional, peak, times.user + times.system)


if __name__ == "__main__":
    typer.run(main)
