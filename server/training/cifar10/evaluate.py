"""Judges weights on images never trained on: `python -m training.cifar10.evaluate --help`."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn

from gradserve_server.models.embedded.cifar10.network import normalize

from .adversary import pgd
from .data import load, reencode, to_tensor
from .training import accuracy, load_weights

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def standing(
    model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, step: float, steps: int, restarts: int, seed: int
) -> float:
    """Returns the share of images that are named rightly before and after every restart of PGD, all in float32."""
    generator = torch.Generator().manual_seed(seed)
    survivors = 0
    for start in range(0, len(labels), 100):
        x, y = images[start : start + 100], labels[start : start + 100]
        right = model(normalize(x)).argmax(1) == y
        x, y = x[right], y[right]
        for _ in range(restarts):
            if not len(y):
                break
            hostile = pgd(lambda z: model(normalize(z)), x, y, eps=eps, step=step, steps=steps, generator=generator)
            right = model(normalize(hostile)).argmax(1) == y
            x, y = x[right], y[right]
        survivors += len(y)
    return survivors / len(labels)


@app.command()
def evaluate(
    weights: Annotated[Path, typer.Argument(help="Weights, as train.py writes them.")],
    data: Annotated[Path, typer.Option(help="Test images: an npz or a folder of class folders.")],
    eps: Annotated[float, typer.Option(help="Budget of the attack, Linf, in units of 1/255.")] = 8,
    step: Annotated[float, typer.Option(help="Step of the attack, in units of 1/255.")] = 2,
    steps: Annotated[int, typer.Option(min=0, help="Steps of the attack; 0: no attack.")] = 20,
    restarts: Annotated[int, typer.Option(min=1, help="Random starts; an image stands if it survives all.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random starts.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Compute threads.")] = 1,
) -> None:
    """Prints as JSON the accuracy on the images as they are, as JPEG of quality 75, and under PGD (Linf)."""
    torch.set_num_threads(threads)
    model, test = load_weights(weights), load(data)
    test = test.take(np.arange(min(limit or len(test), len(test))))
    images, labels = to_tensor(test.images), torch.from_numpy(test.labels)
    jpeg = to_tensor(np.stack([reencode(image, 75) for image in test.images]))
    result: dict[str, float | str] = {"weights": weights.name, "images": len(test)}
    result |= {"clean": accuracy(model, images, labels), "jpeg75": accuracy(model, jpeg, labels)}
    if steps:
        attack = {"eps": eps / 255, "step": step / 255}
        robust = standing(model, images, labels, **attack, steps=steps, restarts=restarts, seed=seed)
        result |= {"attack": f"PGD-{steps}, {restarts} restarts, Linf {eps:g}/255, step {step:g}/255", "robust": robust}
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    app()
