"""Linear models of a score by which segments are shown: choices of segments, and the regressions of LIME and SHAP."""

import math
from typing import NamedTuple

import numpy as np

from ...engine.job import MethodContext

MIN_EIGENVALUE_SHARE = 1e-10  # Smaller eigenvalues of the normal equations, as a share of the largest, count as 0.
MIN_CHOICES_PER_RANK = 2  # With fewer different choices the fit is too close for its residuals to tell errors.


class Fit(NamedTuple):
    """A linear model that was fitted."""

    coefficients: np.ndarray  # [segments]
    errors: np.ndarray | None  # [segments], the standard errors; None where too few samples tell them.
    determined: bool  # Whether the samples determine all coefficients.
    explained: float  # The share of the score's variance that it explains, adjusted for the number of coefficients.

    def relative_error(self, sizes: np.ndarray) -> float | None:
        """The relative standard error of the map, where segments have so many pixels; None where it cannot be told."""
        if self.errors is None:
            return None
        error = math.sqrt(float(sizes @ self.errors**2))
        size = math.sqrt(float(sizes @ self.coefficients**2))
        return error / size if size else None if error else 0.0


def cosine_kernel(shown: np.ndarray, width: float) -> np.ndarray:
    """How much choices [n, segments] count: exp(-d^2 / (2 width^2)) of their cosine distance to the whole picture."""
    distances = 1 - np.sqrt(shown.mean(1))
    weights: np.ndarray = np.exp(-(distances**2) / (2 * width**2))
    return weights


def ridge_fit(shown: np.ndarray, values: np.ndarray, weights: np.ndarray, ridge: float) -> Fit:
    """Weighted least squares with an intercept, which is not penalised as the coefficients are."""
    values = values - values[0]  # The intercept takes it up, and where all are the same the coefficients are exactly 0.
    design = np.column_stack([np.ones(len(shown)), shown])
    penalty = np.diag([0.0, *[ridge] * shown.shape[1]])
    distinct = len(np.unique(shown, axis=0))
    solution, errors, rank = _solved(design, values, weights, penalty, np.arange(len(shown)), distinct)
    if rank < design.shape[1] or distinct < min(MIN_CHOICES_PER_RANK * rank, 2.0 ** shown.shape[1]):
        errors = None
    left = weights @ (values - design @ solution) ** 2
    total = weights @ (values - np.average(values, weights=weights)) ** 2
    free = len(shown) - design.shape[1]
    explained = 1.0 - left / total * (len(shown) - 1) / free if total > 0 and free > 0 else 1.0
    return Fit(solution[1:], None if errors is None else errors[1:], free > 0 and rank == design.shape[1], explained)


def shapley_fit(shown: np.ndarray, values: np.ndarray, weights: np.ndarray, whole: float, nothing: float) -> Fit:
    """Least squares under the constraint that the coefficients add up to the score of the whole less that of nothing.

    With c = (whole - nothing) / segments + u, where the u add up to 0, it is a plain regression for u. Each choice and
    the next one, its complement, are one sample for the errors. A pair that is drawn again says nothing new, so that
    errors are told only where enough of the pairs differ.
    """
    segments = shown.shape[1]
    mean = (whole - nothing) / segments
    design = shown - shown.mean(1, keepdims=True)
    rest = values - nothing - mean * shown.sum(1)
    distinct = len(np.unique(shown ^ shown[:, :1], axis=0))  # A choice and its complement become the same.
    pairs, penalty = np.arange(len(shown)) // 2, np.zeros((segments, segments))
    deviations, errors, rank = _solved(design, rest, weights, penalty, pairs, distinct)
    if rank < segments - 1 or distinct < MIN_CHOICES_PER_RANK * rank:
        errors = None
    total = float(weights @ rest**2)
    explained = 1.0 - float(weights @ (rest - design @ deviations) ** 2) / total if total > 0 else 1.0
    return Fit(mean + deviations, errors, rank == segments - 1, explained)


def _solved(
    design: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    penalty: np.ndarray,
    clusters: np.ndarray,
    distinct: int,
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """The solution of the normal equations that has the smallest norm, its standard errors, and the rank.

    The errors are those of a sandwich estimator: samples of one cluster may depend on each other, and residuals may
    vary in size (Liang, Zeger 1986). Residuals are smaller than errors by what the fit takes up, which depends on how
    many of the clusters are `distinct`: one that is drawn again leaves no more freedom.
    """
    weighted = design * weights[:, None]
    scales, vectors = np.linalg.eigh(design.T @ weighted + penalty)
    kept = scales > MIN_EIGENVALUE_SHARE * max(scales[-1], 0.0)
    inverse = (vectors[:, kept] / scales[kept]) @ vectors[:, kept].T
    solution = inverse @ (weighted.T @ values)
    rank, count = int(kept.sum()), int(clusters[-1]) + 1 if len(clusters) else 0
    if count <= rank:
        return solution, None, rank
    scores = np.zeros((count, design.shape[1]))
    np.add.at(scores, clusters, weighted * (values - design @ solution)[:, None])
    errors = np.sqrt(((scores @ inverse) ** 2).sum(0) * distinct / max(1, distinct - rank))
    return solution, errors, rank


def shapley_choices(segments: int, samples: int, run: MethodContext) -> tuple[np.ndarray, np.ndarray]:
    """Choices [n, segments] that are neither all nor nothing, each before its complement, and how much they count.

    Where there are at most `samples`, these are all of them, weighted by the Shapley kernel. Otherwise sizes are drawn
    by it, and choices of one size are equally likely, so that all count the same.
    """
    if segments < 2 or 2 ** min(segments, 62) - 2 <= samples:
        codes = 1 + run.generator(0).permutation(max(0, 2 ** (segments - 1) - 1))
        pairs = np.stack([codes, 2**segments - 1 - codes], 1).reshape(-1, 1)
        choices = (pairs >> np.arange(segments) & 1).astype(bool)
        sizes = choices.sum(1)
        ways = np.array([math.comb(segments, int(size)) for size in sizes], float)
        return choices, (segments - 1) / (ways * sizes * (segments - sizes))
    sizes = np.arange(1, segments)
    chances = 1 / (sizes * (segments - sizes))
    drawn = []
    for i in range(-(-samples // 2)):
        rng = run.generator(i)
        choice = rng.permutation(segments) < rng.choice(sizes, p=chances / chances.sum())
        drawn += [choice, ~choice]
    return np.stack(drawn)[:samples], np.ones(samples)
