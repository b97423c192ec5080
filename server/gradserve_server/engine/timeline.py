"""When a job's passes ran, for those jobs of which it is asked."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..models.card import Precision

MAX_TIMED_PASSES = 32  # Later passes of a job are counted only.


class TimedPass(NamedTuple):
    """A job's part in one pass, which began at `begun` and had so many rows of others."""

    begun: float
    seconds: float
    rows: int
    other_rows: int
    model: str
    precision: Precision


@dataclass(slots=True)
class Timeline:
    """A job's passes, with times of the monotonic clock of the process that holds it."""

    started: float | None = None  # When its first pass began; None where it had none.
    ended: float = 0.0
    passes: list[TimedPass] = field(default_factory=list)
    untimed: int = 0  # Passes beyond the first MAX_TIMED_PASSES.

    def add(self, timed: TimedPass) -> None:
        """Notes one more pass."""
        if len(self.passes) < MAX_TIMED_PASSES:
            self.passes.append(timed)
        else:
            self.untimed += 1

    def on_clock(self, behind: float) -> "Timeline":
        """This timeline for a process whose clock is so many seconds behind this one's."""
        return replace(
            self,
            started=None if self.started is None else self.started - behind,
            ended=self.ended - behind,
            passes=[each._replace(begun=each.begun - behind) for each in self.passes],
        )
