"""What each of the CPU's kernels gains: gradient passes with all of them, beside passes without one, in turn.

`python -m tests.bench.kernels --help`
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Annotated
from unittest import mock

import torch
import typer
from rich.progress import track
from rich.table import Table

from gradserve_server.accel import cpu_mode
from gradserve_server.accel.convolutions import Pointwise, SideBySide, SubPixel
from gradserve_server.accel.cpu_mode import KernelCache
from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Part, Query
from gradserve_server.models.behaviour import varied
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

from . import report
from .report import Spread, shown

CASES = {"resnet18": ("exact", "fast"), "resnet50": ("exact", "fast"), "vit_b_32": ("exact", "fast")}
WITHOUT = {
    "packed weights": mock.patch.object(cpu_mode, "MIN_PACKED_WEIGHTS", 2**62),
    "side by side": mock.patch.object(SideBySide, "fits", return_value=False),
    "pointwise": mock.patch.object(Pointwise, "fits", return_value=False),
    "sub-pixel": mock.patch.object(SubPixel, "fits", return_value=False),
    "single products": mock.patch.object(cpu_mode, "PRODUCTS", {}),
}


@dataclass(frozen=True)
class Gain:
    """How many times the pass's processor time it takes without the kernel."""

    model: str
    precision: str
    rows: int
    kernel: str
    gain: Spread


def main(
    rows: Annotated[int, typer.Option(min=1, help="Images of a pass.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Passes of each kind; the medians count.")] = 7,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Processor time of one thread for a pass without a kernel, by that of a pass with all of them."""
    torch.set_num_threads(1)
    gains: list[Gain] = []
    for name, precisions in CASES.items():
        model = prepare(ModelSpec(name=name, weights="random"), torch.device("cpu"))
        for precision in set(precisions) & set(model.card.precisions):
            gains += measure(model.at(precision), rows, rounds)
    report.deliver({"kernels": [asdict(gain) for gain in gains]}, [table(gains)], as_json, out)


def measure(model: Prepared, rows: int, rounds: int) -> Iterator[Gain]:
    """Every kernel in turn; those that a network has no use for are left out."""
    images = varied(model.card.height, model.card.width)[:1].repeat(rows, 1, 1, 1)
    everything = used(model, images)
    for name, without in track(WITHOUT.items(), f"{model.card.name} {model.precision}", console=report.console):
        with without:
            less = replace(model, kernels=KernelCache())
            if name != "single products" and used(less, images) == everything:
                continue
        ratios = []
        for _ in range(rounds):
            with without:
                slow = seconds(less, images)
            ratios.append(slow / seconds(model, images))
        yield Gain(model.card.name, model.precision, rows, name, Spread.of(ratios))


def used(model: Prepared, images: torch.Tensor) -> list[type | None]:
    """The kinds of kernels of a pass, after which they are there."""
    seconds(model, images)
    assert model.kernels is not None
    return [type(kernel) if kernel else None for _, kernel in model.kernels._known.values()]


def seconds(model: Prepared, images: torch.Tensor) -> float:
    """Processor time of one gradient pass."""
    part = Part(Query(images, logit(0), "image"), range(len(images)))
    began = time.process_time()
    differentiate(model, [part])
    return time.process_time() - began


def table(gains: list[Gain]) -> Table:
    """For people."""
    seen = report.table("Times the processor time without it", ["network", "precision", "kernel"], ["gain"])
    for gain in gains:
        seen.add_row(gain.model, gain.precision.upper(), gain.kernel, shown(gain.gain, 2))
    return seen


if __name__ == "__main__":
    typer.run(main)
