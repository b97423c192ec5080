"""Similar training examples: cosine of what goes into the last layer. Likeness, not influence."""

import numpy as np

from ..indexes.folder import Array
from .index import Index

NEIGHBOUR_COUNT = 10
BLOCK_ROWS = 1024
MAX_COMPARED = 50_000  # Neighbours are searched for among at most so many examples, chosen evenly.


def similarities(index: Index, features: Array) -> Array:
    """Cosine of [D] with every example's features: [N]."""
    query = features.astype(np.float32) / max(float(np.linalg.norm(features)), 1e-12)
    out = np.empty(len(index), np.float32)
    for rows in index.chunks():
        out[rows] = unit(index.features[rows]) @ query
    return out


def disagreement(features: Array, labels: Array) -> Array:
    """Share of each example's NEIGHBOUR_COUNT others (by cosine) that have another label: [N, D], [N] -> [N]."""
    count = len(features)
    others = np.arange(0, count, max(1, -(-count // MAX_COMPARED)))
    compared, nearest = unit(features[others]), min(NEIGHBOUR_COUNT, len(others) - 1)
    out = np.zeros(count, np.float32)
    if nearest < 1:
        return out
    for start in range(0, count, BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, count))
        alike = unit(features[rows]) @ compared.T
        alike[others[None] == rows[:, None]] = -np.inf  # No example is its own neighbour.
        best = np.argpartition(-alike, nearest - 1, axis=1)[:, :nearest]
        out[rows] = (labels[others[best]] != labels[rows, None]).mean(1)
    return out


def suspicion(self_influence: Array, disagreement: Array) -> Array:
    """Mean of the ranks by both, 0 (least) to 1."""
    ranks = [average_ranks(values) for values in (self_influence, disagreement)]
    mean: Array = np.mean(ranks, axis=0) / max(1, len(self_influence) - 1)
    return mean


def average_ranks(values: Array) -> Array:
    """0 for the smallest; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    ranks: Array = (last - (counts - 1) / 2)[place]
    return ranks


def unit(rows: Array) -> Array:
    """Rows of length one, float32."""
    wide = rows.astype(np.float32)
    normed: Array = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return normed
