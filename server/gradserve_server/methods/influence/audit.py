"""Exact influence for checking an index: the whole Gauss-Newton matrix, by conjugate gradients. Slow, keeps nothing."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, jvp, vjp

from ...models.prepared import Prepared
from ...models.preprocess import to_batch
from ..indexes.folder import Array
from ..indexes.sources import Examples, Report
from .coverage import covered
from .estimates import products
from .gradients import losses, softmax_scores
from .index import Index

RESIDUAL_TOLERANCE = 1e-6  # Conjugate gradients end where the residual's norm has fallen to this share.
MAX_STEPS = 500
BATCH_ROWS = 256
Weights = dict[str, Tensor]


class Exact:
    """The softmax Gauss-Newton matrix of a training set by all weights of the layers that an index covers."""

    def __init__(self, model: Prepared, examples: Examples, damping: float, label_smoothing: float) -> None:
        self.model, self.damping, self.label_smoothing = model, damping, label_smoothing
        names = [layer.name for layer in covered(model)[0]]
        modules = [(name, model.network.get_submodule(name)) for name in names]
        self.weights: Weights = {
            f"{name}.{key}": value.detach() for name, module in modules for key, value in module.named_parameters()
        }
        size = 1 if model.card.unbatched else BATCH_ROWS
        batches = [range(i, min(i + size, len(examples))) for i in range(0, len(examples), size)]
        labels = [torch.from_numpy(examples.labels(rows)).to(model.device) for rows in batches]
        self.batches = [(self._input(examples.images(r)), y) for r, y in zip(batches, labels, strict=True)]
        self.count = len(examples)

    def _input(self, pixels: Array) -> Tensor:
        return self.model.normalised(to_batch(pixels, self.model.device, self.model.dtype))

    def _scores(self, x: Tensor, weights: Weights) -> Tensor:
        def network(images: Tensor) -> Any:
            return functional_call(self.model.network, weights, (images,))

        return softmax_scores(self.model.head.run(network, x), self.model.card.head)

    def _losses(self, x: Tensor, y: Tensor, weights: Weights) -> Tensor:
        return losses(self._scores(x, weights), y, self.label_smoothing)

    def gradient(self, image: Array, label: int) -> Weights:
        """The gradient of the training loss of one image [H, W, 3]."""
        x, y = self._input(image[None]), torch.tensor([label], device=self.model.device)
        loss, pull = _value_and_vjp(partial(self._losses, x, y), self.weights)
        gradient: Weights = pull(torch.ones_like(loss))[0]
        return gradient

    def product(self, v: Weights) -> Weights:
        """The product (G + damping) v."""
        total = {name: self.damping * each for name, each in v.items()}
        for x, _ in self.batches:
            scores, pull = _value_and_vjp(partial(self._scores, x), self.weights)
            change = jvp(partial(self._scores, x), (self.weights,), (v,))[1]
            p = scores.softmax(1)
            curved = p * change - p * (p * change).sum(1, keepdim=True)
            for name, each in pull(curved / self.count)[0].items():
                total[name] = total[name] + each
        return total

    def solve(self, b: Weights) -> Weights:
        """The solution (G + damping)^-1 b, by conjugate gradients."""
        x = {name: torch.zeros_like(each) for name, each in b.items()}
        r, p = dict(b), dict(b)
        start = size = dot(r, r)
        for _ in range(MAX_STEPS):
            if size <= RESIDUAL_TOLERANCE**2 * start:
                break
            curved = self.product(p)
            step = size / dot(p, curved)
            x = {name: x[name] + step * p[name] for name in x}
            r = {name: r[name] - step * curved[name] for name in r}
            size, before = dot(r, r), size
            p = {name: r[name] + size / before * p[name] for name in r}
        return x

    def scores(self, direction: Weights) -> Array:
        """direction^T g_i / N of every training example: [N]."""
        changes = [jvp(partial(self._losses, x, y), (self.weights,), (direction,))[1] for x, y in self.batches]
        return torch.cat(changes).double().cpu().numpy() / self.count


def _value_and_vjp(function: Callable[[Weights], Tensor], weights: Weights) -> tuple[Tensor, Callable[[Tensor], Any]]:
    value, pull = vjp(function, weights)[:2]
    return value, pull


def dot(a: Weights, b: Weights) -> float:
    """Inner product."""
    return sum(float((a[name].double() * b[name].double()).sum()) for name in a)


def audited(model: Prepared, examples: Examples, index: Index, count: int, report: Report) -> float:
    """Mean rank correlation of the index's inner products with exact influence, for examples spread over the set."""
    exact = Exact(model, examples, index.manifest.damping, index.manifest.label_smoothing)
    rows = np.linspace(0, len(index) - 1, count).round().astype(int)
    correlations = []
    for done, row in enumerate(rows):
        report("audit", done, count)
        direction = exact.solve(exact.gradient(examples.images([row])[0], int(examples.labels([row])[0])))
        truth = exact.scores(direction)
        ours = products(index, np.array(index.vectors[row : row + 1], np.float32))[0]
        correlations.append(rank_correlation(ours, truth))
    report("audit", count, count)
    return float(np.mean(correlations))


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's rank correlation of [N] and [N]."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (a, b)]
    ours, theirs = (each - each.mean() for each in ranks)
    return float((ours @ theirs) / np.sqrt((ours @ ours) * (theirs @ theirs)))
