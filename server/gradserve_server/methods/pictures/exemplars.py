"""What an index of pictures tells of a layer's channels."""

import numpy as np

from ..indexes.folder import Array
from .index import PictureIndex


def strongest(index: PictureIndex, layer: int, count: int) -> tuple[int, ...]:
    """The channels of the layer with the largest values on any picture, at most `count`; of equal ones the first."""
    values = index.exemplars(layer)["value"][:, 0]
    return tuple(np.argsort(-values, kind="stable")[:count].tolist())


def purity(labels: Array) -> float | None:
    """The share of the commonest of the labels [k]; None where one is -1, which is no label."""
    return None if (labels < 0).any() else float(np.bincount(labels).max() / len(labels))
