"""Directions between two sets of features: the normals of logistic regressions.

The objective is |w|^2 / 2 + C sum log(1 + exp(-y (w x + b))), as scikit-learn's `LogisticRegression(C=0.1)` has it.
With far fewer pictures than channels, w is a sum of the features with factors, and Newton's method goes over these:
with the kernel K = X X^T it takes n^3 operations a step (Rasmussen, Williams 2006, section 3.4; the intercept is free).
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

INVERSE_PENALTY = 0.1  # C.
MAX_STEPS, MAX_HALVINGS = 100, 30
TOLERANCE = 1e-9  # Of the factors, as a share of C.
MAX_FOLDS = 5
ROUNDING = 1e-12  # A normal that is shorter than this share of what is added up for it is rounding alone.
MAX_MARGIN = 30.0  # Beyond it a picture's weight is as good as 0.


def centred(features: np.ndarray) -> np.ndarray:
    """The features [n, C] less their mean, which changes no direction, since the intercept is free."""
    return np.asarray(features - features.mean(0))


def direction(features: np.ndarray, labels: np.ndarray, kernel: np.ndarray) -> np.ndarray | None:
    """The unit normal [C] towards the features of label 1, away from those of -1; None where they are the same."""
    factors, _ = fitted(kernel, labels)
    normal = features.T @ factors
    length = np.linalg.norm(normal)
    scale = np.abs(features).max(initial=0.0) * np.abs(factors).sum()
    return None if length <= ROUNDING * scale else np.asarray(normal / length)


def fitted(kernel: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """The factors [n] and the intercept, given the kernel [n, n] and the labels [n], 1 and -1, each at least once."""
    factors, intercept = np.zeros(len(labels)), 0.0
    value = _objective(kernel, labels, factors, intercept)
    for _ in range(MAX_STEPS):
        scores = kernel @ factors + intercept
        goal = INVERSE_PENALTY * labels * expit(-labels * scores)  # What the factors are at the optimum.
        if np.abs(factors - goal).max() <= TOLERANCE * INVERSE_PENALTY and abs(goal.sum()) <= TOLERANCE:
            break
        step, shift = _newton(kernel, scores, goal)
        step, shift, share = step - factors, shift - intercept, 1.0
        for _ in range(MAX_HALVINGS):
            moved = _objective(kernel, labels, factors + share * step, intercept + share * shift)
            if moved <= value:
                break
            share /= 2
        else:
            break  # Rounding keeps it from falling further.
        factors, intercept, value = factors + share * step, intercept + share * shift, moved
    return factors, intercept


def _newton(kernel: np.ndarray, scores: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, float]:
    """The factors, which sum to 0, and the intercept that a whole Newton step leads to."""
    bounded = np.clip(scores, -MAX_MARGIN, MAX_MARGIN)
    root = np.sqrt(INVERSE_PENALTY * expit(bounded) * expit(-bounded))
    inner = np.eye(len(scores)) + root[:, None] * kernel * root
    columns = np.stack([root * scores + goal / root, root], 1)
    wanted, ones = (root[:, None] * np.linalg.solve(inner, columns)).T
    intercept = wanted.sum() / ones.sum()
    return wanted - intercept * ones, float(intercept)


def _objective(kernel: np.ndarray, labels: np.ndarray, factors: np.ndarray, intercept: float) -> float:
    along = kernel @ factors
    losses = np.logaddexp(0.0, -labels * (along + intercept))
    return float(factors @ along / 2 + INVERSE_PENALTY * losses.sum())


def accuracy(kernel: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> float:
    """The share of the features that regressions without them tell right, the mean of that of both labels.

    `kernel`: that of the features, [n, n]. Cross-validation in 5 parts, or in as many as the rarer label has features.
    """
    folds = min(MAX_FOLDS, int((labels > 0).sum()), int((labels < 0).sum()))
    places = np.empty(len(labels), int)
    for label in (1.0, -1.0):
        own = np.flatnonzero(labels == label)
        places[generator.permutation(own)] = np.arange(len(own)) % folds
    right = np.empty(len(labels), bool)
    for fold in range(folds):
        out, rest = places == fold, places != fold
        factors, intercept = fitted(kernel[np.ix_(rest, rest)], labels[rest])
        right[out] = labels[out] * (kernel[np.ix_(out, rest)] @ factors + intercept) > 0
    return float((right[labels > 0].mean() + right[labels < 0].mean()) / 2)


def halves(counts: Sequence[int], generator: np.random.Generator) -> np.ndarray:
    """Labels of two random halves, between which each group of so many features is divided evenly."""
    parts = [np.full(count, -1.0) for count in counts]
    for i, part in enumerate(parts):
        part[generator.permutation(len(part))[: (len(part) + i % 2) // 2]] = 1.0  # Of two odd groups each half has one.
    return np.concatenate(parts)
