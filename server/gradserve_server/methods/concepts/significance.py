"""Which derivatives along a direction are more than those along directions between random halves of the pictures."""

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.05  # The share of random concepts that are called significant for some of the classes asked for.
ROUNDING = 1e-7  # Values whose deviation is below this share of another one's distance from them are all the same.


def scores_of(derivatives: np.ndarray, random: np.ndarray) -> np.ndarray:
    """z [classes]: distances of the derivatives [classes] from the random ones [classes, directions] in their std."""
    spread = random.std(1, ddof=1)
    z: np.ndarray = np.divide(derivatives - random.mean(1), spread, out=np.zeros(len(derivatives)), where=spread > 0)
    return z


def threshold_of(random: np.ndarray) -> float:
    """The |z| that one more random direction has with a probability of 5 % for any of the classes, or less.

    `random`: the derivatives [classes, directions] along the random directions. The threshold is Student's t of a new
    value of a normal distribution whose mean and deviation were estimated from so many values, with Bonferroni's
    correction. For several classes it is at least the largest |z| that a random direction has among the others, since
    the tails of many classes need not be normal (a permutation test of the maximum; Westfall, Young 1993).
    """
    classes, directions = random.shape
    quantile = stdtrit(directions - 1, 1 - LEVEL / (2 * classes))
    normal = float(quantile * np.sqrt(1 + 1 / directions))
    if classes == 1:
        return normal
    return max(normal, float(np.abs(_left_out_scores(random)).max()))


def _left_out_scores(random: np.ndarray) -> np.ndarray:
    """z [classes, directions] of each value among the others of its class, as `scores_of` has it of a new value."""
    count = random.shape[1]
    apart = (random - random.mean(1, keepdims=True)) * (count / (count - 1))  # From the mean of the others.
    squares = (count - 1) * random.var(1, ddof=1, keepdims=True) - apart**2 * ((count - 1) / count)
    spread = np.sqrt(np.maximum(squares, 0.0) / (count - 2))
    scores: np.ndarray = np.divide(apart, spread, out=np.zeros_like(random), where=spread > ROUNDING * np.abs(apart))
    return scores
