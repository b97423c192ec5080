"""The methods: each turns one pass of the test image into a score for every training example.

J = mean l_i + (lambda / 2) |theta|^2, H its damped Gauss-Newton matrix, g_i = grad l_i. Removing example i changes its
weight by -1/N, so a number f of the test example changes by + grad f^T H^-1 g_i / N (Koh & Liang 2017).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...engine.job import Steps
from ...engine.objective import Objective, log_odds, logit, ranked, ranked_log_odds
from ...engine.query import Query, Tap
from ...engine.scores import ranking
from ...models.card import HeadKind
from ..embed import pooled
from ..indexes.folder import Array
from . import neighbours
from .gradients import softmax_scores
from .index import HEAD, PROJECTION, Index, opened
from .layers import taps
from .projected import Projected, read_projected
from .regression import Regression, read_regression

Goal = Literal["loss", "margin", "logit"]


class IndexedModel(NamedTuple):
    """A served model, the folder of its index and what its outputs mean; several are an ensemble."""

    model: str
    folder: str
    head: HeadKind = "softmax"
    digest: str = ""  # Which index it must be; empty for whatever is there.

    def open(self) -> Index:
        """Its index. Raises IndexFault."""
        return opened(self.folder, self.digest)


class Quantity(NamedTuple):
    """What influence explains: the loss, the margin or the logit of a class, or of the class of a predicted rank."""

    goal: Goal
    label: int | None
    rank: int = 1  # The rank among the predicted classes, where there is no label.
    head: HeadKind = "softmax"

    @property
    def objective(self) -> Objective:
        """What to differentiate: the logit, or the margin, which does not vanish as p nears 1 as the loss does."""
        if self.goal == "logit":
            return ranked(self.rank) if self.label is None else logit(self.label)
        return ranked_log_odds(self.rank) if self.label is None else log_odds(self.label)

    def of(self, logits: Tensor) -> "Quantity":
        """The quantity with its label, which logits [C] give where only the rank is set."""
        return self if self.label is not None else self._replace(label=int(ranking(logits[None])[0, self.rank - 1]))

    def value(self, scores: Tensor) -> Tensor:
        """The number itself, of softmax scores [C]. The margin is log p - log(1 - p): a binary head's logit."""
        assert self.label is not None
        if self.goal == "logit" and self.head == "softmax":
            return scores[self.label]
        others = scores[torch.arange(len(scores)) != self.label].logsumexp(0)
        margin = scores[self.label] - others
        return torch.nn.functional.softplus(-margin) if self.goal == "loss" else margin


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """For every training example, how the number changes when it is removed, or how similar it is: [N]."""

    changes: Array
    quantity: Quantity  # The quantity with its label.
    scores: Tensor  # [C], float64; their softmax is the probabilities.
    # From rows and their change of weight to the quantity's change, by a Newton step.
    step: Callable[[Array, float], float] | None = None


def unfolded(model: str) -> str:
    """The name under which an engine has the unfolded instance of a model."""
    return f"{model} unfolded"


@lru_cache(64)
def projected_of(folder: str, digest: str, device: torch.device, dtype: torch.dtype) -> Projected:
    """An index's bases on a device."""
    return read_projected(Path(folder) / PROJECTION).to(device, dtype)


@lru_cache(64)
def regression_of(folder: str, digest: str) -> Regression:
    """An index's last layer."""
    return read_regression(Path(folder) / HEAD)


def projected_gauss_newton(x: Tensor, quantity: Quantity, member: IndexedModel) -> Steps:
    """Inner products of projected, whitened gradients (LoGra: Choe et al. 2024, with the softmax Gauss-Newton matrix).

    d loss = -(1 - p) d margin.
    """
    index, tools = member.open(), projected_of(member.folder, member.digest, x.device, x.dtype)
    answer = yield Query(x, quantity.objective, "taps", taps(tools.projections), model=unfolded(member.model))
    scores = softmax_scores(answer.logits[0].double().cpu(), member.head)
    quantity = quantity.of(scores)
    vector = tools.vectors(answer.acts)[0].float().cpu().numpy()
    slope = -(1 - float(scores.softmax(0)[quantity.label])) if quantity.goal == "loss" else 1.0
    return Estimate(slope / len(index) * products(index, vector[None])[0], quantity, scores)


def last_layer(x: Tensor, quantity: Quantity, member: IndexedModel) -> Steps:
    """Exact influence through the weights of the last layer alone."""
    index, tools = member.open(), regression_of(member.folder, member.digest)
    scores, features = yield from _last(x, quantity, member)
    quantity = quantity.of(scores)
    with torch.enable_grad():
        point = scores.clone().requires_grad_()
        (slope,) = torch.autograd.grad(quantity.value(point), point)
    responses = tools.responses(features)

    def step(rows: Array, weight: float) -> float:
        change = tools.newton(index, responses, rows, weight)
        return float(quantity.value(scores + change) - quantity.value(scores))

    return Estimate(tools.removals(index, responses, slope), quantity, scores, step)


def similar(x: Tensor, quantity: Quantity, member: IndexedModel) -> Steps:
    """Cosine of what goes into the last layer: similar training examples, whether or not they mattered."""
    scores, features = yield from _last(x, quantity, member)
    similarities = neighbours.similarities(member.open(), features.float().numpy())
    return Estimate(similarities, quantity.of(scores), scores)


def products(index: Index, vectors: Array) -> Array:
    """The inner products of queries [B, k] with every row of the index: [B, N]."""
    out = np.empty((len(vectors), len(index)), np.float32)
    queries = torch.from_numpy(vectors)
    for rows in index.chunks():
        out[:, rows] = queries @ torch.from_numpy(index.vectors[rows]).float().T
    return out


def _last(x: Tensor, quantity: Quantity, member: IndexedModel) -> Steps:
    """Asks for softmax scores [C] and what goes into the last layer [D]; returns both in float64 on the CPU."""
    layer = member.open().manifest.feature_layer
    tap = Tap(layer, "input", reduce=lambda act, _: pooled(act, "mean"))
    answer = yield Query(x, quantity.objective, "nothing", (tap,), model=unfolded(member.model))
    return softmax_scores(answer.logits[0].double().cpu(), member.head), answer.acts[0][0].double().cpu()
