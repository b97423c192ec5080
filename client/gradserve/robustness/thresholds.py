"""What is asked of the figures of a check, and whether they hold."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["passed", "failed", "not_measured"]


@dataclass(frozen=True)
class Threshold:
    """A figure, and the least or the most that is asked of it.

    Where not every picture was measured, the figure lies between `value` and `possible`.
    """

    name: str
    value: float | None
    least: float | None = None
    most: float | None = None
    possible: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether it holds, whatever became of the pictures that were not measured; a missing figure does not."""
        if self._allows(self.value):
            return "passed"
        return "not_measured" if self._allows(self.possible) else "failed"

    def _allows(self, value: float | None) -> bool:
        if value is None:
            return False
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        bound = f"at least {self.least:.1%}" if self.least is not None else f"at most {self.most:.1%}"
        value = "unknown" if self.value is None else f"{self.value:.1%}"
        if self.possible is not None and self.possible != self.value:
            value = f"{value} to {self.possible:.1%}, since not every picture was measured"
        return f"{self.name}: {value}, {bound} wanted"


@dataclass(frozen=True)
class Limits:
    """The thresholds of a check, each None where there is none.

    The least robust and clean accuracy, the most mCE, by how much a share may be below the baseline's, the least robust
    accuracy of every group, and pairs of a radius and the least accuracy that is certified with it.
    """

    robust: float | None = None
    clean: float | None = None
    mce: float | None = None
    no_worse: float | None = None
    group_robust: float | None = None
    certified: tuple[tuple[float, float], ...] = ()
