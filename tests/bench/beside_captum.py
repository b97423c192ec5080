"""Twelve methods on photos, in one job of the engine, beside Captum's on plain torchvision, in turn, in one process.

Both have one thread, the same weights and the same numbers of samples. Captum evaluates its samples in batches of 16,
and the engine's rows of all methods share passes. `python -m tests.bench.beside_captum --help`
"""

import csv
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import torchvision
import typer
from captum import attr
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn

from gradserve_server.methods.explain import METHODS, Call, Target, rows_of
from gradserve_server.methods.parameters import bind
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared
from gradserve_server.pool.forking import WORKERS_ENVIRONMENT

from . import report
from .faithfulness import DATA, MODELS, Data
from .pointing import Grid, cell, maps

SAMPLES, SEGMENTS, BATCH = 20, 50, 16
CHOICES = 2 * SEGMENTS  # Of segments; a regression needs more than there are.
PARAMETERS: Mapping[str, Mapping[str, object]] = {
    "gradient": {},
    "gradient_x_input": {},
    "smooth_grad": {"samples": SAMPLES},
    "integrated_gradients": {"steps": SAMPLES},
    "guided_backprop": {},
    "deconvnet": {},
    "grad_cam": {},
    "guided_grad_cam": {},
    "occlusion": {"patch": 0.25, "stride": 0.5},
    "lime": {"samples": CHOICES, "segments": SEGMENTS},
    "kernel_shap": {"samples": CHOICES, "segments": SEGMENTS},
    "gradient_shap": {"samples": SAMPLES},
}


@dataclass(frozen=True)
class Rates:
    """Rows a second, medians over photos; `ratio` of ours to Captum's, photo by photo."""

    model: str
    photos: int
    rows: int
    ours: report.Spread
    captum: report.Spread
    ratio: report.Spread


class Plain(nn.Module):
    """Torchvision's network on images in [0, 1], as users of Captum have it."""

    def __init__(self, name: str, weights: Path, card_mean: Tensor, card_std: Tensor) -> None:
        super().__init__()
        network = getattr(torchvision.models, name)()
        network.load_state_dict(load_file(weights))
        self.network = network.eval()
        for module in self.network.modules():
            if isinstance(module, nn.ReLU | nn.ReLU6):
                module.inplace = False  # Captum's hooks cannot have it.
        self.mean, self.std = card_mean, card_std

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


def main(
    photos: Annotated[int, typer.Option(min=1, help="Photos for each network.")] = 12,
    data: Data = DATA,
    as_json: report.Json = False,
    out: report.Out = None,
) -> None:
    """Explains each photo by twelve methods, by the engine and by Captum, whichever was second first."""
    warnings.simplefilter("ignore")  # Captum warns that it sets hooks.
    found = []
    for name in MODELS:
        weights = data / f"{name}-imagenet.safetensors"
        model = prepare(ModelSpec(name=name, weights=str(weights)), torch.device("cpu"))
        torch.set_num_threads(1)
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (model.card.mean, model.card.std))
        found.append(rates(model, Plain(name, weights, mean, std), data / "images", photos))
    rows = report.table("12 methods", ["model"], ["photos", "rows of one", "ours, rows/s", "Captum, rows/s", "ratio"])
    for each in found:
        spreads = [report.shown(each.ours, 1), report.shown(each.captum, 1), report.shown(each.ratio, 2)]
        rows.add_row(each.model, str(each.photos), str(each.rows), *spreads)
    report.deliver({"beside_captum": [asdict(each) for each in found]}, [rows], as_json, out)


def rates(model: Prepared, plain: Plain, folder: Path, count: int) -> Rates:
    """Both on each photo, in turn; a first photo warms up and is not counted."""
    with (folder / "labels.csv").open() as lines:
        entries = [(folder / row["file"], int(row["class_index"])) for row in csv.DictReader(lines)]
    seconds: list[tuple[float, float]] = []
    rows = 0
    for place, (file, label) in enumerate(track(entries[: count + 1], model.card.name, console=report.console)):
        x = cell(file, model.card.height)
        calls = [call(model, method, label) for method in PARAMETERS]
        rows = sum(rows_of(each, (x.shape[2], x.shape[3]), model.card) for each in calls)
        ours, theirs = Grid(x, (label,)), x.clone()

        def engine(grid: Grid = ours, calls: list[Call] = calls) -> object:
            return maps(model, grid, calls)

        def captum(x: Tensor = theirs, label: int = label) -> object:
            return [attribute(plain, x, label) for attribute in captums(plain, x).values()]

        timed = dict.fromkeys((engine, captum), 0.0)
        for each in [engine, captum][:: 1 if place % 2 else -1]:
            begun = time.process_time()
            each()
            timed[each] = time.process_time() - begun
        seconds.append((timed[engine], timed[captum]))
    pairs = seconds[1:]
    spreads = ([rows / pair[0] for pair in pairs], [rows / pair[1] for pair in pairs], [b / a for a, b in pairs])
    return Rates(model.card.name, len(pairs), rows, *map(report.Spread.of, spreads))


def call(model: Prepared, method: str, label: int) -> Call:
    """One method for a class."""
    parameters = bind(METHODS[method].function, PARAMETERS[method])
    if METHODS[method].default_layer:
        parameters["layer"] = model.card.grad_cam_layer
    return Call(method, parameters, Target(label=label))


def captums(plain: Plain, x: Tensor) -> dict[str, Callable[[Plain, Tensor, int], object]]:
    """Captum's attribution of each method, with as many samples as ours."""
    from skimage.segmentation import slic

    layer = plain.network.features
    side = round(0.25 * min(x.shape[2:]))

    def segments() -> Tensor:
        pixels = x.detach()[0].permute(1, 2, 0).numpy()
        return torch.from_numpy(slic(pixels, SEGMENTS, start_label=0))[None, None]

    def lime(kind: type, plain: Plain, x: Tensor, label: int) -> object:
        return kind(plain).attribute(
            x, target=label, feature_mask=segments(), n_samples=CHOICES, perturbations_per_eval=BATCH
        )

    return {
        "gradient": lambda p, x, y: attr.Saliency(p).attribute(x.requires_grad_(), y),
        "gradient_x_input": lambda p, x, y: attr.InputXGradient(p).attribute(x.requires_grad_(), y),
        "smooth_grad": lambda p, x, y: attr.NoiseTunnel(attr.Saliency(p)).attribute(
            x, nt_samples=SAMPLES, nt_samples_batch_size=BATCH, stdevs=0.15, target=y
        ),
        "integrated_gradients": lambda p, x, y: attr.IntegratedGradients(p).attribute(
            x, target=y, n_steps=SAMPLES, internal_batch_size=BATCH
        ),
        "guided_backprop": lambda p, x, y: attr.GuidedBackprop(p).attribute(x, y),
        "deconvnet": lambda p, x, y: attr.Deconvolution(p).attribute(x, y),
        "grad_cam": lambda p, x, y: attr.LayerGradCam(p, layer).attribute(x, y),
        "guided_grad_cam": lambda p, x, y: attr.GuidedGradCam(p, layer).attribute(x, y),
        "occlusion": lambda p, x, y: attr.Occlusion(p).attribute(
            x, (3, side, side), (3, side // 2, side // 2), target=y, perturbations_per_eval=BATCH
        ),
        "lime": lambda p, x, y: lime(attr.Lime, p, x, y),
        "kernel_shap": lambda p, x, y: lime(attr.KernelShap, p, x, y),
        "gradient_shap": lambda p, x, y: attr.GradientShap(p).attribute(
            x, torch.cat([torch.zeros_like(x), torch.ones_like(x)]), n_samples=SAMPLES, target=y
        ),
    }


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in WORKERS_ENVIRONMENT.items()):
        # The C library reads them when a process starts, so that this one begins anew with what workers have.
        command = [sys.executable, "-m", "tests.bench.beside_captum", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | WORKERS_ENVIRONMENT)
    typer.run(main)
