"""Is the object that a map points to cut out well? Photos pasted as ellipses on others, whose masks are known.

Each ellipse of 11 to 22 % of the picture shows the middle of a photo that the network knows, whose class is the target.
The pasted edges are sharp, which flatters every map; a Gaussian in the middle and the true mask are the controls.

`python -m tests.bench.masks --help`
"""

import csv
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.progress import track
from rich.table import Table
from torch import Tensor

from gradserve_server.api.maps.segments import segment
from gradserve_server.methods.explain import METHODS, Call, Target
from gradserve_server.methods.parameters import bind
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared
from gradserve_server.pool.forking import WORKERS_ENVIRONMENT

from . import report
from .faithfulness import DATA, MODELS, Data
from .pointing import Grid, cell, knows, maps

VARIANTS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "lrp, gamma": ("lrp", {"rule": "gamma"}),
    "lrp": ("lrp", {}),
    "guided_grad_cam": ("guided_grad_cam", {}),
    "grad_cam": ("grad_cam", {}),
    "layer_cam": ("layer_cam", {}),
    "smooth_grad": ("smooth_grad", {"samples": 10}),
    "gradient": ("gradient", {}),
}
CENTRE, TRUTH = "Gaussian in the middle", "the true mask"
PASTED = 128  # Side in pixels of the photo that is pasted, on a picture of 224.
AREAS = 0.11, 0.22  # Shares of the picture.
ASPECTS = 0.75, 1.33  # Height of an ellipse by its width. None is wider than the photo.
CENTRE_SPREAD = 0.25  # Standard deviation of the Gaussian, in sides of the picture.


class Composite(NamedTuple):
    """A picture [1, 3, H, W] with an object, the object's mask [H, W] and its class."""

    picture: Tensor
    mask: np.ndarray
    label: int


@dataclass(frozen=True)
class Cut:
    """A method over all composites: mean intersection over union of masks and boxes, and how often none was cut."""

    model: str
    method: str
    composites: int
    mask: float
    box: float
    none: int


def main(
    count: Annotated[int, typer.Option(min=1, help="Composites for each network.")] = 20,
    seed: Annotated[int, typer.Option(help="Chooses photos, places and sizes.")] = 0,
    data: Data = DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Cuts out the object of every composite by the map of every method."""
    found: list[Cut] = []
    for name in MODELS:
        model = prepare(ModelSpec(name=name, weights=str(data / f"{name}-imagenet.safetensors")), torch.device("cpu"))
        torch.set_num_threads(1)
        found += measured(model, list(islice(composites(model, data / "images", seed), count)))
    report.deliver({"masks": [asdict(each) for each in found]}, [table(found)], as_json, out)


def composites(model: Prepared, folder: Path, seed: int) -> Iterator[Composite]:
    """Pictures whose object the network recognises, without end."""
    side = model.card.height
    with (folder / "labels.csv").open() as lines:
        files = {int(row["class_index"]): folder / row["file"] for row in csv.DictReader(lines)}
    objects = {label: cell(file, PASTED * side // 224) for label, file in files.items()}
    grounds = {label: cell(file, side) for label, file in files.items()}
    known = [label for label, photo in objects.items() if knows(model, photo, label)]
    random = np.random.default_rng(seed)
    while True:
        label, ground = int(random.choice(known)), int(random.choice(list(grounds)))
        if label != ground:
            composite = pasted(objects[label], grounds[ground], label, random)
            if knows(model, composite.picture, label):
                yield composite


def pasted(photo: Tensor, ground: Tensor, label: int, random: np.random.Generator) -> Composite:
    """The photo's middle, seen through an ellipse that lies anywhere within the ground."""
    side, inner = ground.shape[2], photo.shape[2]
    aspect = random.uniform(*ASPECTS)
    radii = np.sqrt(random.uniform(*AREAS) * side**2 / np.pi * np.array([aspect, 1 / aspect]))
    middle = random.uniform(radii, side - radii).round().astype(int)
    y, x = np.mgrid[0:side, 0:side]
    mask = ((y - middle[0]) / radii[0]) ** 2 + ((x - middle[1]) / radii[1]) ** 2 < 1
    framed = F.pad(photo, [side] * 4)  # So that it may reach beyond the ground.
    top, left = side + inner // 2 - middle
    moved = framed[:, :, top : top + side, left : left + side]
    return Composite(torch.where(torch.from_numpy(mask), moved, ground), mask, label)


def measured(model: Prepared, pictures: Sequence[Composite]) -> list[Cut]:
    """Every method on every picture."""
    overlaps: dict[str, list[tuple[float, float] | None]] = defaultdict(list)
    for each in track(pictures, model.card.name, console=report.console, transient=True):
        named = dict(calls(model, each.label))
        found = maps(model, Grid(each.picture, (each.label,)), list(named.values()))
        controls = {CENTRE: centre(each.mask.shape), TRUTH: each.mask.astype(np.float32)}
        pixels = (each.picture[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        for method, values in {**dict(zip(named, found, strict=True)), **controls}.items():
            cut = segment(pixels, values)
            overlaps[method].append(
                None if cut is None else (share(cut.mask, each.mask), box_share(cut.mask, each.mask))
            )
    return [
        Cut(
            model.card.name,
            method,
            len(each),
            mean(pair[0] if pair else 0.0 for pair in each),
            mean(pair[1] if pair else 0.0 for pair in each),
            each.count(None),
        )
        for method, each in overlaps.items()
    ]


def calls(model: Prepared, label: int) -> Iterator[tuple[str, Call]]:
    """Every method for a class, with the name of its row."""
    for name, (method, given) in VARIANTS.items():
        parameters = bind(METHODS[method].function, given)
        if METHODS[method].default_layer:
            parameters["layer"] = model.card.grad_cam_layer
        yield name, Call(method, parameters, Target(label=label))


def centre(shape: tuple[int, ...]) -> np.ndarray:
    """A map that knows nothing of the picture."""
    y, x = (np.linspace(-0.5, 0.5, length) for length in shape)
    return np.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * CENTRE_SPREAD**2)).astype(np.float32)


def share(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


def box_share(a: np.ndarray, b: np.ndarray) -> float:
    """That of the boxes around both."""
    return share(boxed(a), boxed(b))


def boxed(mask: np.ndarray) -> np.ndarray:
    """The box around a mask, filled."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    full = np.zeros_like(mask)
    full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return full


def table(found: Sequence[Cut]) -> Table:
    """One line for each network and method."""
    made = report.table("Objects cut out", ["model", "method"], ["pictures", "IoU", "IoU of boxes", "none"])
    for each in found:
        made.add_row(
            each.model, each.method, str(each.composites), f"{each.mask:.3f}", f"{each.box:.3f}", str(each.none)
        )
    return made


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in WORKERS_ENVIRONMENT.items()):
        # The C library reads them when a process starts, so that this one begins anew with what workers have.
        command = [sys.executable, "-m", "tests.bench.masks", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | WORKERS_ENVIRONMENT)
    typer.run(main)
