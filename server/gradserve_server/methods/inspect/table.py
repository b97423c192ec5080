"""What layers do on some pictures: mean and spread, channels that never change, and the loss's gradient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ...engine.objective import log_prob, ranked_log_prob
from ...engine.query import Answer, Query, Tap, Wrt

FIGURES = 3  # Numbers of a row before those of its channels: mean, squared deviations, norm of the gradient.


@dataclass(frozen=True, slots=True)
class TableArguments:
    """Which layers are watched, over how many pictures, and by which loss."""

    layers: tuple[str, ...]  # Those whose output is a map or a vector of each picture.
    pictures: int  # 0 for a table that needs no pass.
    labels: tuple[int, ...]  # The class of each picture; empty for the predicted ones.
    loss: bool  # Whether there is a loss to differentiate.


@dataclass(frozen=True, slots=True)
class Activity:
    """What one layer did on all pictures."""

    mean: float
    std: float
    dead_share: float | None  # None where each channel has a single value.
    gradient_norm: float | None


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """What the watched layers did, and the mean loss."""

    layers: Mapping[str, Activity]
    loss: float | None


def table(run: MethodContext, x: Tensor, arguments: TableArguments) -> Steps:
    """[n, 3, H, W] -> LayerStatistics; nothing in it where there are no pictures."""
    if not arguments.pictures:
        return LayerStatistics({}, None)
    answers: list[Answer] = []
    for part in run.parts(arguments.pictures):
        answers += yield _queries(x, part, arguments)
    layers = {
        name: _activity([answer.acts[i] for answer in answers], loss=arguments.loss)
        for i, name in enumerate(arguments.layers)
    }
    values = [answer.value for answer in answers if answer.value is not None]
    return LayerStatistics(layers, -float(torch.cat(values).double().mean()) if values else None)


def _queries(x: Tensor, part: range, arguments: TableArguments) -> list[Query]:
    """Those of some pictures: a query for all, or for those of each label; their order does not matter."""
    taps = tuple(Tap(layer, reduce=_figures) for layer in arguments.layers)
    wrt: Wrt = "image" if arguments.loss else "nothing"
    if arguments.loss and arguments.labels:
        labels = np.array(arguments.labels)[part.start : part.stop]
        rows = {int(label): part.start + np.flatnonzero(labels == label) for label in np.unique(labels)}
        return [Query(x[torch.from_numpy(at)], log_prob(label), wrt, taps) for label, at in rows.items()]
    objective = ranked_log_prob(1) if arguments.loss else None
    return [Query(x[part.start : part.stop], objective, wrt, taps)]


def _figures(act: Tensor, grad: Tensor) -> Tensor:
    """An activation [n, C, ...] and its gradient -> [n, 4 + 2C], in double.

    Mean, squared deviations from it, the gradient's norm, then each channel's lowest and highest value; last the
    number of values of a channel.
    """
    flat = act.flatten(2) if act.dim() > 2 else act[:, :, None]
    mean = flat.mean((1, 2), dtype=torch.float64)
    deviations = (flat - mean.to(flat)[:, None, None]).square().sum((1, 2), dtype=torch.float64)
    norm = torch.linalg.vector_norm(grad.flatten(1), dim=1, dtype=torch.float64)
    count = torch.full_like(mean, flat.shape[2])
    lowest, highest = flat.amin(2), flat.amax(2)  # A tenth of the time of torch.aminmax on a CPU.
    return torch.cat([torch.stack([mean, deviations, norm], 1), lowest, highest, count[:, None]], 1)


def _activity(parts: Sequence[Tensor], *, loss: bool) -> Activity:
    """The figures of all pictures together."""
    rows = torch.cat(list(parts))
    channels, positions = (rows.shape[1] - FIGURES - 1) // 2, float(rows[0, -1])
    means, deviations, norms = rows[:, :FIGURES].unbind(1)
    mean = means.mean()
    squares = deviations.sum() + channels * positions * (means - mean).square().sum()
    lowest, highest = (each.T for each in rows[:, FIGURES:-1].split(channels, 1))
    dead = (lowest.amin(1) == highest.amax(1)).double().mean()
    return Activity(
        float(mean),
        float((squares / (len(rows) * channels * positions)).sqrt()),
        float(dead) if len(rows) * positions > 1 else None,
        float(norms.mean()) if loss else None,
    )
