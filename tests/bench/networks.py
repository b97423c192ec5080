"""What making ready does to every classifier of torchvision, with random weights: folding, kernels, errors, seconds.

`python -m tests.bench.networks --help`
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Annotated

import torch
import typer
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torchvision import models as zoo

from gradserve_server.models import preparation
from gradserve_server.models.behaviour import varied
from gradserve_server.models.catalogue import EMBEDDED, ModelSpec
from gradserve_server.models.loading import LoadError, Source, load
from gradserve_server.models.preparation import prepare_source
from gradserve_server.models.prepared import Prepared

from . import report

SIZE = {"height": 64, "width": 96, "resize": 64}
OWN_SIZE = ("vit", "maxvit")  # Families of networks that take one size only.
SIZES = {"inception_v3": {"height": 96, "width": 128, "resize": 96}}
PAIRS = 9  # Pairs of pictures for the errors in fp32. One alone would be luck: a ReLU near zero may flip.
FLIPPED = 1e-5  # A gradient that is further off than this has such a ReLU behind it.
GIANTS = ("vit_h_14", "regnet_y_128gf")  # They are too large for this kind of machine beside their float64 copies.


@dataclass(frozen=True)
class Seen:
    """Of one network. Errors are relative; those of gradients by their length."""

    name: str
    folded: int  # How many BatchNorms are folded.
    kernels: int  # How many convolutions of EXACT have kernels of their own.
    kernels_fast: int
    logits_double: float  # The error in float64.
    gradient_double: float
    gradient_ratio: float  # The `ratio` of the errors in fp32.
    flipped: int  # Pairs that are further off than FLIPPED.
    flipped_plain: tuple[int, int]  # The same of plain fp32 torch, in its usual memory layout and in channels_last.
    compared: tuple[str, ...]  # Errors beside bounds by precision, as the comparison at load saw them.
    seconds: float  # The time that making it ready takes.
    notes: tuple[str, ...]


def main(
    only: Annotated[list[str] | None, typer.Option(help="Names; repeat for several. Default: all.")] = None,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Makes every classifier of torchvision and every embedded network ready and compares it with plain torch."""
    torch.set_num_threads(1)
    names = only or [*EMBEDDED, *(name for name in zoo.list_models(module=zoo) if name not in GIANTS)]
    rows = [seen(spec_of(name)) for name in track(names, console=report.console)]
    report.deliver({"networks": [asdict(row) for row in rows]}, [table(rows)], as_json, out)


def spec_of(name: str) -> ModelSpec:
    """The catalogue's entry."""
    size = {} if name.startswith(OWN_SIZE) else SIZES.get(name, SIZE)
    return EMBEDDED.get(name) or ModelSpec.model_validate({"name": name, "weights": "random", **size})


def seen(spec: ModelSpec) -> Seen:
    """Prepares the network twice, in fp32 and in float64. One that is refused has its reason as a note."""
    cpu, source = torch.device("cpu"), load(spec)
    began = time.monotonic()
    with listening() as compared:
        try:
            model = prepare_source(spec, source, cpu, torch.float32)
        except LoadError as refusal:
            nothing = float("nan")
            return Seen(spec.name, 0, 0, 0, nothing, nothing, nothing, 0, (0, 0), tuple(compared), 0, (str(refusal),))
    seconds = time.monotonic() - began
    double, wide = load(spec), prepare_source(spec, load(spec), cpu, torch.float64)
    images = pair(model, seed=9)
    right, found = plain(double, images.double()), answers(wide, images.double())
    ours, *plains = fp32_errors(model, source, double)
    return Seen(
        name=spec.name,
        folded=len(model.card.folded),
        kernels=kernels(model),
        kernels_fast=kernels(model.at("fast")) if "fast" in model.card.precisions else 0,
        logits_double=off(found[0], right[0]),
        gradient_double=off(found[1], right[1]),
        gradient_ratio=ratio(ours, plains),
        flipped=flips(ours),
        flipped_plain=(flips(plains[0]), flips(plains[1])),
        compared=tuple(compared),
        seconds=seconds,
        notes=model.card.notes,
    )


def pair(model: Prepared, seed: int) -> Tensor:
    """Two pictures of the model's own size."""
    return varied(model.card.height, model.card.width, seed=seed)[:2]


def fp32_errors(model: Prepared, source: Source, double: Source) -> tuple[list[float], list[float], list[float]]:
    """Errors of the gradient against float64 for each pair: prepared, and plain torch's in its two memory layouts."""
    errors: tuple[list[float], list[float], list[float]] = ([], [], [])
    for seed in range(9, 9 + PAIRS):
        images = pair(model, seed)
        right = plain(double, images.double())[1]
        errors[0].append(off(answers(model, images)[1], right))
        for found, layout in zip(errors[1:], (torch.contiguous_format, torch.channels_last), strict=True):
            source.network.to(memory_format=layout)
            found.append(off(plain(source, images.contiguous(memory_format=layout))[1], right))
    return errors


def ratio(ours: list[float], plains: list[list[float]]) -> float:
    """The median error by that of plain torch in the worse of its layouts.

    Of the pairs in which none of them has flipped a ReLU, or of all where there are none such.
    """
    rows = list(zip(ours, *plains, strict=True))
    found, *others = zip(*([row for row in rows if max(row) <= FLIPPED] or rows), strict=True)
    return median(found) / max(*map(median, others), 1e-9)


def flips(errors: list[float]) -> int:
    """How many pairs have a gradient with a flipped ReLU behind it."""
    return sum(error > FLIPPED for error in errors)


@contextmanager
def listening() -> Iterator[list[str]]:
    """What the comparison says while it is listened to."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    preparation.log.addHandler(handler)
    level = preparation.log.level
    preparation.log.setLevel("DEBUG")
    try:
        yield said
    finally:
        preparation.log.removeHandler(handler)
        preparation.log.setLevel(level)


def answers(model: object, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of each image's highest."""
    images = images.clone().requires_grad_()
    logits = model(images)  # type: ignore[operator]
    return logits.detach(), torch.autograd.grad(logits.amax(1).sum(), images)[0]


def plain(source: Source, images: Tensor) -> tuple[Tensor, Tensor]:
    """The same of the author's own network."""
    network = source.network.to(images.dtype)
    mean, std = (torch.tensor(each, dtype=images.dtype).view(-1, 1, 1) for each in (source.mean, source.std))
    return answers(lambda x: network((x - mean) / std), images)


def off(found: Tensor, right: Tensor) -> float:
    """Relative L2 distance."""
    return float((found.double() - right.double()).norm() / right.double().norm())


def kernels(model: Prepared) -> int:
    """Convolutions that take another kernel than the plain one in a pass over two images."""
    if model.kernels is None:
        return 0
    with torch.no_grad():
        model(varied(model.card.height, model.card.width)[:2])
    return sum(kernel is not None for _, kernel in model.kernels._known.values())


def table(rows: list[Seen]) -> Table:
    """For people."""
    numbers = ["folded", "kernels", "FAST", "logits f64", "gradient f64", "fp32 ratio", "flipped", "s"]
    found = report.table(
        "Made ready, beside plain torch", ["network"], [*numbers, "errors and bounds by precision; notes"]
    )
    for row in rows:
        errors = (f"{row.logits_double:.1e}", f"{row.gradient_double:.1e}", f"{row.gradient_ratio:.2f}")
        counts = (str(row.folded), str(row.kernels), str(row.kernels_fast))
        flipped = f"{row.flipped} / {row.flipped_plain[0]}, {row.flipped_plain[1]}"
        found.add_row(row.name, *counts, *errors, flipped, f"{row.seconds:.1f}", "; ".join((*row.compared, *row.notes)))
    return found


if __name__ == "__main__":
    typer.run(main)
