"""Exact intervals of a share: Clopper and Pearson (1934), without scipy, which the client does not have."""

import math

_NEGLIGIBLE = 1e-18  # Terms below this share of their sum change nothing.


def clopper_pearson(count: int, of: int, alpha: float = 0.05) -> tuple[float, float]:
    """The two-sided interval of a probability at the confidence 1 - alpha, from so many successes of so many trials."""
    if not of:
        return 0.0, 1.0
    return lower_bound(count, of, alpha / 2), 1 - lower_bound(of - count, of, alpha / 2)


def lower_bound(count: int, of: int, alpha: float) -> float:
    """The probability under which so many successes or more come with the probability alpha, below 0.5."""
    if not count:
        return 0.0
    low, high = 0.0, count / of  # At the upper end the tail has the probability 0.5 or more.
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _upper_tail(count, of, middle) < alpha else (low, middle)
    return low


def _upper_tail(count: int, of: int, probability: float) -> float:
    """The probability of so many successes or more; below the mean of `count` terms fall, so that few are summed."""
    chosen = math.lgamma(of + 1) - math.lgamma(count + 1) - math.lgamma(of - count + 1)
    term = math.exp(chosen + count * math.log(probability) + (of - count) * math.log1p(-probability))
    odds, total = probability / (1 - probability), 0.0
    for successes in range(count, of + 1):
        total += term
        term *= (of - successes) / (successes + 1) * odds
        if term < _NEGLIGIBLE * total:
            break
    return total
