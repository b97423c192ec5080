"""Pictures to index, and plain references: all activations at once, by hooks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zoo
from torch import Tensor

from gradserve_server.methods.indexes.examples import ArrayExamples
from gradserve_server.methods.indexes.folder import preprocessing
from gradserve_server.methods.indexes.sources import IndexOrigin, Report, no_report
from gradserve_server.methods.pictures.index import PictureIndex
from gradserve_server.methods.pictures.indexing.build import PicturesBuilder
from gradserve_server.methods.pictures.indexing.plan import PicturesPlan
from gradserve_server.models.prepared import Prepared

RESNET20 = ("bn1", "layer1.0", "layer2.1", "layer3.1", "layer3.2", "linear")
Build = Callable[..., PictureIndex]


def cifar(data: Path, count: int) -> ArrayExamples:
    """The first pictures of CIFAR-10's training set, ten classes, with two of them the same and two black."""
    with np.load(data / "cifar10-train-5000.npz") as file:
        pixels, labels = file["images"][:count].copy(), file["labels"][:count]
    pixels[-1] = pixels[0]
    pixels[[1, count // 2]] = 0
    return ArrayExamples(pixels, labels)


def noise(count: int, height: int, width: int, classes: int = 3) -> ArrayExamples:
    """Random pictures; every third is a copy of one before it."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, height, width, 3), np.uint8)
    pixels[2::3] = pixels[: len(pixels[2::3])]
    return ArrayExamples(pixels, rng.integers(0, classes, count))


def builder(
    model: Prepared, examples: ArrayExamples, layers: Sequence[str] = (), report: Report = no_report, **plan: int
) -> PicturesBuilder:
    """A builder as the command makes it."""
    origin = IndexOrigin(preprocessing(model.card), examples.digest())
    classes = [str(i) for i in range(10)]
    return PicturesBuilder(model, examples, classes, origin, PicturesPlan(tuple(layers), **plan), report)


def built(model: Prepared, examples: ArrayExamples, out: Path, layers: Sequence[str] = (), **plan: int) -> PictureIndex:
    """The index of these pictures."""
    builder(model, examples, layers, **plan).run(out)
    index = PictureIndex(out)
    index.verify()
    return index


def activations(model: Prepared, examples: ArrayExamples, layer: str, batch: int) -> np.ndarray:
    """What a layer gives for all pictures, in passes of `batch`: [N, C, positions]."""
    kept: list[Tensor] = []
    module = model.network.get_submodule(layer)
    handle = module.register_forward_hook(lambda _, __, out: kept.append(out.detach().clone()))
    for start in range(0, len(examples), batch):
        rows = range(start, min(start + batch, len(examples)))
        images = torch.from_numpy(examples.images(rows)).permute(0, 3, 1, 2).to(model.dtype) / 255
        with torch.no_grad():
            model(images.contiguous(memory_format=torch.channels_last))
    handle.remove()
    return channels_first(torch.cat(kept), model.card.layer(layer)).numpy()


def channels_first(x: Tensor, layer: Any) -> Tensor:
    """A layer's output as [N, C, positions]; of tokens the patches."""
    if layer.layout == "nhwc":
        x = x.permute(0, 3, 1, 2)
    elif layer.layout == "tokens":
        x = x[:, layer.leading : x.shape[1] - layer.trailing].transpose(1, 2)
    return x.flatten(2) if x.dim() > 2 else x[:, :, None]


def strongest(acts: np.ndarray, channel: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pictures, by the channel's largest value and then by their numbers: pictures, values, positions."""
    values, places = acts[:, channel].max(1), acts[:, channel].argmax(1)
    order = np.array(sorted(range(len(acts)), key=lambda i: (-values[i], i)))
    return order, values[order], places[order]


__all__ = ["RESNET20", "activations", "builder", "built", "cifar", "noise", "strongest", "zoo"]
