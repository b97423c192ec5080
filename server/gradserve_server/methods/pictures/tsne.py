"""A t-SNE of a layer's features (van der Maaten & Hinton 2008), into which new pictures are placed.

openTSNE makes it (Policar et al. 2024), an extra of the server's. What is kept are the points alone: affinities of new
pictures come from their nearest neighbours in the index, which are found anew each time, so that nothing is pickled.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from .nearest import Array

EXTRA = "openTSNE is not installed; install the server's extra: pip install 'gradserve-server[tsne]'"
PERPLEXITY = 30.0  # Of the index's own pictures.
PLACING_PERPLEXITY = 5.0  # Of new ones: openTSNE's default for them.
PLACING_NEIGHBOURS = 15  # Three times that perplexity: so many neighbours have affinities.
MIN_PICTURES = 16
SEED = 0
# Repulsion is read from a grid that is made once, so that new pictures do not depend on each other.
GRID: dict[str, Any] = {
    "negative_gradient_method": "fft",
    "n_interpolation_points": 3,
    "min_num_intervals": 50,
    "ints_in_interval": 1,
    "dof": 1,
    "n_jobs": 1,
}


@dataclass(frozen=True)
class Tsne:
    """Where the index's pictures lie: [N, 2] float32, centred."""

    points: Array

    def save(self, path: Path) -> None:
        """As safetensors."""
        save_file({"points": np.ascontiguousarray(self.points, "<f4")}, path)


def read_tsne(path: Path) -> Tsne:
    """What `save` wrote."""
    return Tsne(**load_file(path))


@cache
def missing() -> str:
    """Why t-SNE cannot be computed here, or nothing."""
    return "" if find_spec("openTSNE") else EXTRA


def fit_tsne(features: Array) -> Tsne:
    """The t-SNE of [N, C], by one thread, so that it comes out the same again.

    Raises ValueError without openTSNE, or for fewer than MIN_PICTURES.
    """
    if missing():
        raise ValueError(missing())
    if len(features) < MIN_PICTURES:
        raise ValueError(f"a t-SNE needs {MIN_PICTURES} pictures at least, and there are {len(features)}")
    from openTSNE import TSNE  # Here, since it takes a second and few need it.

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    embedding = TSNE(perplexity=perplexity, random_state=SEED, n_jobs=1).fit(np.array(features, np.float32))
    points = np.asarray(embedding)
    return Tsne((points - (points.max(0) + points.min(0)) / 2).astype(np.float32))


def place(tsne: Tsne, rows: Array, distances: Array) -> Array:
    """Where new pictures lie, by their nearest neighbours in the index and the distances: [n, k], [n, k] -> [n, 2].

    Each begins at the median of its neighbours and is then moved by the gradient of its own affinities alone. Of the
    neighbours the first PLACING_NEIGHBOURS count.
    """
    if not len(rows):
        return np.zeros((0, 2))
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import Affinities, joint_probabilities_nn
    from scipy.sparse import csr_matrix

    rows, distances = rows[:, :PLACING_NEIGHBOURS], distances[:, :PLACING_NEIGHBOURS]
    count = len(tsne.points)

    class NewAffinities(Affinities):  # type: ignore[misc]
        """The affinities of the pictures that are asked for, in the form in which openTSNE asks for them."""

        def __init__(self) -> None:
            super().__init__()
            self.P = csr_matrix((count, count))  # Those of the index are not needed, but for their number.

        def to_new(self, data: Array, perplexity: float, return_distances: bool = True) -> tuple[Any, Array, Array]:
            how = {"symmetrize": False, "normalization": "point-wise", "n_reference_samples": count, "n_jobs": 1}
            return joint_probabilities_nn(rows, distances, [perplexity], **how), rows, distances

    index = TSNEEmbedding(tsne.points.astype(np.float64), NewAffinities(), random_state=0, **GRID)
    placed = index.transform(distances, perplexity=min(PLACING_PERPLEXITY, rows.shape[1] / 3))
    return np.asarray(placed, np.float64)
