"""Influence through the last layer alone, exact: multinomial logistic regression on fixed features.

Objective J = mean l_i + (damping / 2) |theta|^2, gradients d_i (x) h_i with d = p - y and h the features with a one for
the bias. The classes' d sum to zero, so everything lives in C - 1 coordinates, `contrasts`. A layer that gives one
score z for two classes has the scores [-z / 2, z / 2], `one_score`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..indexes.folder import Array
from .index import Index, soft_labels

MAX_PARAMETERS = 6144  # The most parameters of a Hessian that is factored.
MIN_FEATURES = 32  # Fewer features than this say too little.
MAX_COLUMNS = 2048  # The most columns of one Newton step.
CHUNK_ROWS = 2048
RELATIVE_DAMPING = 0.1  # Damping as a share of the mean diagonal, where the layer was not trained alone.
MAX_EXACT_LOSS = 1e-6  # The Hessian counts as exact while its features lose less than this share of their energy.


def contrasts(classes: int) -> Tensor:
    """[C, C - 1], orthonormal, each column summing to zero (Helmert)."""
    basis = torch.zeros(classes, classes - 1, dtype=torch.float64)
    for j in range(1, classes):
        basis[:j, j - 1] = 1.0
        basis[j, j - 1] = -float(j)
    normed: Tensor = basis / basis.norm(dim=0)
    return normed


def one_score() -> Tensor:
    """[2, 1]: the scores of two classes by the one score that a layer gives for both."""
    return torch.tensor([[-0.5], [0.5]], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Regression:
    """The Hessian of one training set: everything that a query needs but the mapped files."""

    factor: Tensor  # [P, P], lower Cholesky factor of H, P = (C - 1) F
    reduction: Tensor  # [D, F - 1], a multiple of the identity where features are kept whole
    damping: float
    exact: bool
    basis: Tensor  # [C, C - 1], from the weights' coordinates to the classes' scores.

    def reduced(self, features: Tensor) -> Tensor:
        """[n, D] -> [n, F], float64, with the one for the bias."""
        reduced = features @ self.reduction
        return torch.cat([reduced, torch.ones(len(reduced), 1, dtype=torch.float64)], 1)

    def responses(self, features: Tensor) -> Tensor:
        """H^-1 (I (x) h) of one example with the features h [D]: [C-1, F, C-1]."""
        h = self.reduced(features[None])[0]
        size = self.basis.shape[1]
        units = torch.zeros(size, len(h), size, dtype=torch.float64)
        units[range(size), :, range(size)] = h
        return torch.cholesky_solve(units.flatten(0, 1), self.factor).view(size, len(h), size)

    def removals(self, index: Index, responses: Tensor, slope: Tensor) -> Array:
        """slope^T H^-1 g_i / N for every i, slope = d f / d logits [C]: change of f when i is removed, first order."""
        field = self.basis @ (responses @ (self.basis.T @ slope))  # [C, F]
        weights, bias = (field[:, :-1] @ self.reduction.T).float().numpy(), field[:, -1].float().numpy()
        out = np.empty(len(index), np.float32)
        for rows in index.chunks():
            outputs = index.features[rows].astype(np.float32) @ weights.T + bias
            out[rows] = (outputs * index.residuals[rows]).sum(1)
        return out / len(index)

    def newton(self, index: Index, responses: Tensor, rows: Array, weight: float) -> Tensor:
        """Change of the logits [C] when the weights of `rows` change by weight / N: a Newton step of the new objective.

        Woodbury: the step sees the curvature weight / N (U S U^T) that the examples bring or take with them, which the
        first order leaves out (Koh & Liang 2017 drop it; Pregibon 1981 has it for one example).
        """
        basis, size = self.basis, self.basis.shape[1]
        h = self.reduced(wide(index.features[rows]))
        residuals = wide(index.residuals[rows])
        blocks = curvatures(residuals + wide(soft_labels(index, rows)), basis)
        units = torch.zeros(len(rows), size, size, h.shape[1], dtype=torch.float64)
        units[:, range(size), range(size)] = h[:, None]
        columns = units.view(len(rows) * size, -1).T  # U, [P, m (C-1)]
        inner = (columns.T @ torch.cholesky_solve(columns, self.factor)).view(len(rows), size, -1)
        update = torch.eye(columns.shape[1], dtype=torch.float64) + weight / len(index) * (blocks @ inner).flatten(0, 1)
        step = torch.linalg.solve(update, (residuals @ basis).flatten())
        outputs = torch.einsum("nf,afb->nab", h, responses).flatten(0, 1)
        change: Tensor = basis @ (outputs.T @ step) * (-weight / len(index))
        return change

    def can_step(self, count: int) -> bool:
        """Whether a Newton step for so many examples at once is affordable."""
        return 0 < count * self.basis.shape[1] <= MAX_COLUMNS

    def norms(self, features: Array, residuals: Array) -> tuple[Array, Array]:
        """g^T H^-1 g and |H^-1 g| / N of every example."""
        own, moved = np.empty(len(features), np.float32), np.empty(len(features), np.float32)
        for rows in chunks(len(features)):
            h, d = self.reduced(wide(features[rows])), wide(residuals[rows])
            gradients = torch.einsum("na,nf->naf", d @ self.basis, h).flatten(1)
            half = torch.linalg.solve_triangular(self.factor, gradients.T, upper=False)
            own[rows] = half.square().sum(0)
            moved[rows] = torch.linalg.solve_triangular(self.factor.T, half, upper=True).norm(dim=0) / len(features)
        return own, moved

    def save(self, path: Path) -> None:
        """Writes a safetensors file."""
        facts = torch.tensor([self.damping, float(self.exact)], dtype=torch.float64)
        tensors = {"factor": self.factor, "reduction": self.reduction, "basis": self.basis, "facts": facts}
        save_file({name: each.contiguous() for name, each in tensors.items()}, path)


def read_regression(path: Path) -> Regression:
    """What `save` wrote."""
    tensors = load_file(path)
    damping, exact = tensors["facts"].tolist()
    factor, reduction = tensors["factor"], tensors["reduction"]
    basis = tensors.get("basis", contrasts(len(factor) // (reduction.shape[1] + 1) + 1))
    return Regression(factor, reduction, damping, bool(exact), basis)


def fits(classes: int, inputs: int) -> bool:
    """Whether the Hessian of such a last layer can be factored, with enough of its features."""
    return width(classes, inputs) >= min(inputs, MIN_FEATURES)


def width(classes: int, inputs: int) -> int:
    """How many features are kept."""
    return min(inputs, MAX_PARAMETERS // max(1, classes - 1) - 1)


def fit(
    features: Array,
    residuals: Array,
    soft: Array,
    weight_decay: float | None,
    *,
    alone: bool,
    scale: float = 1.0,
    basis: Tensor | None = None,
) -> Regression:
    """Fits features [N, D], residuals [N, C] and soft labels [N, C].

    `alone`: whether nothing but this layer was trained, on features times `scale`.
    `basis`: that of a layer which gives other numbers than a score for each class.
    """
    reduction, exact = reduced_basis(features, width(residuals.shape[1], features.shape[1]))
    reduction = reduction * scale
    basis = contrasts(residuals.shape[1]) if basis is None else basis
    size = basis.shape[1] * (reduction.shape[1] + 1)
    hessian, blank = (
        torch.zeros(size, size, dtype=torch.float64),
        Regression(torch.empty(0), reduction, 0.0, exact, basis),
    )
    for rows in chunks(len(features)):
        h = blank.reduced(wide(features[rows]))
        probabilities = wide(residuals[rows] + soft[rows])
        hessian += summed_curvature(curvatures(probabilities, basis), h)
    hessian /= len(features)
    relative = 0.0 if alone and weight_decay else RELATIVE_DAMPING * float(hessian.diagonal().mean())
    damping = max(weight_decay or 0.0, relative, 1e-12)
    hessian.diagonal().add_(damping)
    return Regression(torch.linalg.cholesky(hessian), reduction, damping, exact, basis)


def reduced_basis(features: Array, count: int) -> tuple[Tensor, bool]:
    """[D, min(count, N)] orthonormal, and whether nothing is lost by it."""
    columns = features.shape[1]
    if columns <= min(count, len(features)):
        return torch.eye(columns, dtype=torch.float64), True
    moment = torch.zeros(columns, columns, dtype=torch.float64)
    for rows in chunks(len(features)):
        part = wide(features[rows])
        moment += part.T @ part
    values, vectors = torch.linalg.eigh(moment)
    count = min(count, len(features))
    lost = float(values[:-count].clamp_min(0).sum() / values.sum())
    return vectors.flip(1)[:, :count].contiguous(), lost < MAX_EXACT_LOSS


def curvatures(probabilities: Tensor, basis: Tensor) -> Tensor:
    """B^T (diag p - p p^T) B of each example: [N, C] -> [N, C-1, C-1]."""
    p = probabilities.clamp_min(0)
    centred = basis[None] - (p @ basis)[:, None]
    return torch.einsum("nc,nca,ncb->nab", p, centred, centred)


def summed_curvature(blocks: Tensor, h: Tensor) -> Tensor:
    """Sum over examples of S_i (x) h_i h_i^T: [N, C-1, C-1], [N, F] -> [P, P]."""
    size, columns = blocks.shape[1], h.shape[1]
    out = torch.zeros(size, columns, size, columns, dtype=torch.float64)
    for a in range(size):
        for b in range(a + 1):
            out[a, :, b] = out[b, :, a] = h.T @ (h * blocks[:, a, b, None])
    return out.view(size * columns, -1)


def wide(rows: Array) -> Tensor:
    """A copy in float64."""
    return torch.from_numpy(np.array(rows, np.float64))


def chunks(count: int) -> Iterator[slice]:
    """0..count-1, CHUNK_ROWS by CHUNK_ROWS."""
    return (slice(i, min(i + CHUNK_ROWS, count)) for i in range(0, count, CHUNK_ROWS))
