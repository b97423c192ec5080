"""Principal components of a layer's features (Pearson 1901), from a pass over them in parts.

The sign of a component is free; here its entry of the largest absolute value is positive, the first one of equal ones.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
from safetensors.numpy import load_file, save_file

from .nearest import Array

COMPONENTS = 10  # How many are kept, though a map shows two.
MAX_SIDE = 4096  # With more channels, components come from the products of so many pictures, chosen evenly.
CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Pca:
    """mean [C], components [q, C] of length one, explained [q] as shares of the variance, points [N, 2]; float32."""

    mean: Array
    components: Array
    explained: Array
    points: Array

    def place(self, features: Array) -> Array:
        """[n, C] -> [n, 2]; 0 on an axis that the index has not."""
        return _on_axes(features, self.mean, self.components)

    def save(self, path: Path) -> None:
        """As safetensors."""
        save_file({name: np.ascontiguousarray(value, "<f4") for name, value in vars(self).items()}, path)


def read_pca(path: Path) -> Pca:
    """What `save` wrote."""
    return Pca(**load_file(path))


def fit_pca(features: Array) -> Pca:
    """The components of [N, C]: at most COMPONENTS, C or N - 1 of them."""
    count, width = features.shape
    kept = min(COMPONENTS, width, max(1, count - 1))
    mean = sum(part.sum(0, dtype=np.float64) for part in _parts(features)) / count
    if width <= MAX_SIDE:
        scatter = np.zeros((width, width))
        for part in _parts(features):
            centred = part - mean
            scatter += centred.T @ centred
        values, vectors = scipy.linalg.eigh(scatter, subset_by_index=(width - kept, width - 1))
        total, components = float(np.trace(scatter)), vectors[:, ::-1].T
    else:
        rows = np.linspace(0, count - 1, min(count, MAX_SIDE)).round().astype(np.int64)
        centred = features[rows] - mean
        products = centred @ centred.T
        kept = min(kept, len(rows))
        values, vectors = scipy.linalg.eigh(products, subset_by_index=(len(rows) - kept, len(rows) - 1))
        total, components = float(np.trace(products)), (centred.T @ vectors[:, ::-1]).T
        components = components / np.maximum(np.linalg.norm(components, axis=1, keepdims=True), 1e-30)
    largest = np.abs(components).argmax(1)
    components = components * np.where(components[np.arange(kept), largest] < 0, -1.0, 1.0)[:, None]
    explained = np.maximum(values[::-1], 0) / (total or 1.0)
    points = np.concatenate([_on_axes(part, mean, components) for part in _parts(features)])
    return Pca(*(each.astype(np.float32) for each in (mean, components, explained, points)))


def _parts(features: Array) -> list[Array]:
    return [features[start : start + CHUNK_ROWS] for start in range(0, len(features), CHUNK_ROWS)]


def _on_axes(features: Array, mean: Array, components: Array) -> Array:
    """Features [n, C] on the first two axes: [n, 2] float64."""
    out = np.zeros((len(features), 2))
    axes = components[:2].astype(np.float64)
    out[:, : len(axes)] = (features.astype(np.float64) - mean) @ axes.T
    return out
