"""A share of pictures with its interval."""

import math
from dataclasses import dataclass

Z95 = 1.959963984540054  # The normal distribution's two-sided 95 % quantile.


@dataclass(frozen=True)
class Proportion:
    """So many of so many."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """The share, 0 of nothing."""
        return self.count / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Wilson (1927)."""
        if not self.of:
            return 0.0, 1.0
        centre = self.value + Z95**2 / (2 * self.of)
        reach = Z95 * math.sqrt(self.value * (1 - self.value) / self.of + (Z95 / (2 * self.of)) ** 2)
        scale = 1 + Z95**2 / self.of
        low, high = (centre - reach) / scale, (centre + reach) / scale
        # The share lies within in spite of rounding.
        return max(0.0, min(low, self.value)), min(1.0, max(high, self.value))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} ({low:.1%} to {high:.1%})"
