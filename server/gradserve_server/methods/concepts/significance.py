"""Which derivatives along a direction are more than those along directions between random halves of the pictures."""

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.05  # The share of random concepts that are called significant for some of the classes asked for.


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
    rest = [np.delete(random, i, 1) for i in range(directions)]
    return max(normal, *(float(np.abs(scores_of(random[:, i], rest[i])).max()) for i in range(directions)))
