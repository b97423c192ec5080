"""Whether two processes serve the same network: the same weights, and the same logits for one fixed picture.

A builder may keep what no file of weights has, such as a number drawn by chance, so that equal weights are not enough.
"""

from collections.abc import Sequence

import numpy as np

from .card import ModelCard

TOLERANCE = 1e-3  # Largest difference of two logits, as a share of how much they vary; devices round in different ways.
OTHER_WEIGHTS = (
    "its weights are not those of the other processes, and all must serve the same: where its file has changed, reload "
    "the model; where its builder gives other weights at every call, "
    "seed it, or save the weights to a file and name that"
)
OTHER_INDEX = "its influence index has changed since it was loaded; reload the model"
OTHER_PICTURES = "its index of pictures has changed since it was loaded; reload the model"
OTHER_ANSWERS = (
    "its builder gives another network at every call, with the same weights but other answers, and all processes must "
    "serve the same: something that it keeps outside of its weights is drawn by chance or taken from its surroundings; "
    "make it an argument of the builder, or a buffer"
)


def difference(ours: ModelCard, theirs: ModelCard) -> str:
    """Why these cards are of different networks; empty where they are of the same."""
    if ours.digest != theirs.digest:
        return OTHER_WEIGHTS
    if ours.index_digest != theirs.index_digest:
        return OTHER_INDEX
    if ours.pictures_digest != theirs.pictures_digest:
        return OTHER_PICTURES
    return "" if same_logits(ours.sample, theirs.sample) else OTHER_ANSWERS


def same_logits(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the logits are the same up to rounding; one that is not finite must be so in both."""
    a, b = np.array(first), np.array(second)
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return False
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if not len(a):
        return True
    from_common = np.abs(a - (np.median(a) if len(a) > 1 else 0))
    rounded = 4 * np.finfo(np.float32).eps * np.abs(a)
    allowed = np.maximum(TOLERANCE * np.maximum(from_common, np.median(from_common)), rounded)
    return bool((np.abs(a - b) <= allowed).all())
