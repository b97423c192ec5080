"""From a layer's features and the gradients of classes to a concept's direction, and the classes that depend on it.

A class's derivative along the direction is not judged by TCAV's t-test over runs (Kim et al. 2018), which calls most
pairs of concept and class significant, but by those along directions between random halves of the pictures.
"""

import time
from dataclasses import dataclass

import numpy as np

from ...engine.job import TimeUp
from ...engine.objective import NotApplicable
from ..targets import Target
from . import ConceptFeatures, ConceptsArguments
from .regression import MAX_FOLDS, accuracy, centred, direction, halves
from .significance import scores_of, threshold_of

REGRESSION_FLOP = 12  # A regression takes so many operations times the third power of the number of its pictures.


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A class's mean derivative along the direction, its z, and its rank among all classes if that is known."""

    target: Target
    derivative: float
    z: float
    rank: int | None


@dataclass(frozen=True, slots=True)
class ConceptDirection:
    """The unit direction [C], the share of pictures that it tells right when left out, and the classes."""

    vector: np.ndarray
    accuracy: float
    classes: tuple[Sensitivity, ...]  # By falling derivative.
    threshold: float  # The |z| from which a class is significant.


def gflop(arguments: ConceptsArguments) -> float:
    """The work of `analysed` in GFLOP."""
    regressions = 1 + arguments.random_directions + MAX_FOLDS
    return 1e-9 * REGRESSION_FLOP * regressions * (arguments.concepts + arguments.negatives) ** 3


def analysed(
    measured: ConceptFeatures, arguments: ConceptsArguments, seed: int, deadline: float = float("inf")
) -> ConceptDirection:
    """The direction and the classes.

    Raises NotApplicable where the layer does not tell the pictures apart, TimeUp after the deadline (monotonic clock).
    """
    features, shown = centred(measured.features), arguments.concepts + arguments.negatives
    kernel = features @ features.T
    labels = np.where(np.arange(shown) < arguments.concepts, 1.0, -1.0)
    vector = direction(features, labels, kernel)
    if vector is None:
        raise NotApplicable(f"{arguments.layer} gives the same for the concept and the negatives; name another layer")
    randoms = _random_directions(features, kernel, arguments, seed, deadline)
    share = accuracy(kernel, labels, _generator(seed, 0))
    derivatives, random = measured.gradients @ vector, measured.gradients @ randoms.T
    z = scores_of(derivatives, random)
    known = arguments.complete or bool(arguments.logits_layer)  # The derivatives of all classes.
    places = [target.label or 0 if known else i for i, target in enumerate(arguments.classes)]
    rows = [
        Sensitivity(
            target, float(derivatives[i]), float(z[i]), 1 + int((derivatives > derivatives[i]).sum()) if known else None
        )
        for i, target in zip(places, arguments.classes, strict=True)
    ]
    rows.sort(key=lambda row: -row.derivative)
    return ConceptDirection(vector.astype(np.float32), share, tuple(rows), threshold_of(random[places]))


def _random_directions(
    features: np.ndarray, kernel: np.ndarray, arguments: ConceptsArguments, seed: int, deadline: float
) -> np.ndarray:
    """Directions between random halves of the pictures, [directions, C].

    Each half has half of the concept's pictures and half of the negatives. Halves of the negatives alone do not know
    how much the concept's pictures differ among themselves: of 40 concepts of 12 random photos, against 24, 19 then had
    some significant class of the 1000 of `imagenet`, and by these halves 7 (2026-11-30).
    """
    counts, directions = (arguments.concepts, arguments.negatives), list[np.ndarray]()
    for i in range(1, 1 + arguments.random_directions):
        if time.monotonic() >= deadline:
            raise TimeUp
        each = direction(features, halves(counts, _generator(seed, i)), kernel)
        if each is None:
            raise NotApplicable(
                f"{arguments.layer} gives the same for all pictures; send others, or name another layer"
            )
        directions.append(each)
    return np.stack(directions)


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, index]))
