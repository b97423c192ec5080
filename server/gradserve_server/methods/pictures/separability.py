"""How well features separate classes: the accuracy of the nearest neighbours, leaving one out.

Each of at most MAX_ASKED pictures, chosen evenly, is classed by its nearest neighbours among all others (k-nearest
neighbours, Fix & Hodges 1951; Euclidean distance, plain majority). No picture is spent on a held-out part, so that
small sets are measured too. The control is the same with the labels shuffled, which gives what chance does.
"""

from typing import NamedTuple

import numpy as np

from .nearest import Array, nearest, voted

NEIGHBOUR_COUNT = 10
MAX_ASKED = 2000
SHUFFLE_SEED = 0


class Separability(NamedTuple):
    """Accuracies from 0 to 1: of the neighbours, and with the labels shuffled."""

    accuracy: float
    shuffled: float


def is_separable(labels: Array) -> bool:
    """Whether there are two classes at least; labels below 0 are none."""
    return len(np.unique(labels[labels >= 0])) > 1


def asked_rows(labels: Array) -> Array:
    """The rows that are classed: those that are labelled, at most MAX_ASKED of them and chosen evenly."""
    labelled = np.flatnonzero(labels >= 0)
    return labelled[np.linspace(0, len(labelled) - 1, min(MAX_ASKED, len(labelled))).round().astype(np.int64)]


def separability(features: Array, labels: Array) -> Separability:
    """Of features [N, C] with labels [N], where -1 is none. There must be two classes; see `is_separable`."""
    asked = asked_rows(labels)
    usable = None if (labels >= 0).all() else labels >= 0
    rows, _ = nearest(features, features[asked], NEIGHBOUR_COUNT, own=asked, usable=usable)
    shuffled = labels.copy()
    labelled = labels >= 0
    shuffled[labelled] = np.random.default_rng(SHUFFLE_SEED).permutation(labels[labelled])
    right = (float((voted(each[rows])[0] == each[asked]).mean()) for each in (labels, shuffled))
    return Separability(*right)
