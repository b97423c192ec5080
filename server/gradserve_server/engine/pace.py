"""How long passes of each kind take, whose turn it is, and whether others are worth waiting for."""

from collections.abc import Collection
from typing import NamedTuple

from .job import Job
from .take import Key

MOST_KEYS = 1000
SMOOTHING = 0.3  # weight of the newest pass in the running estimate of seconds per row
WAITING = 0.5  # of the last pass's seconds, for the callers that it answered


class Pass(NamedTuple):
    """The last pass of a kind."""

    jobs: int
    rows: int
    ended: float


class Pace:
    """What an engine learns of its passes, by kind of key."""

    def __init__(self) -> None:
        self.served: dict[Key, float] = {}  # seconds of passes that a kind has had, counted from where it joined
        self._row_seconds: dict[Key, float] = {}
        self._last: dict[Key, Pass] = {}
        self._turn = (0.0, 0.0)  # what the last pass's kind had had before it and after it

    def row_seconds(self, key: Key) -> float:
        """Of a row of that kind; 0 if there was none."""
        return self._row_seconds.get(key.kind, 0.0)

    def pass_seconds(self, key: Key) -> float:
        """What a pass as large as that kind's last one takes; 0 if there was none."""
        last = self._last.get(key.kind)
        return last.rows * self.row_seconds(key) if last else 0.0

    def join(self, key: Key) -> None:
        """A kind that is new takes its turn like the others."""
        self.served.setdefault(key.kind, self._turn[1])

    def learn(self, key: Key, jobs: int, rows: int, began: float, ended: float) -> None:
        """Notes a pass over rows of so many jobs."""
        kind, seconds = key.kind, ended - began
        had = max(self.served[kind], self._turn[0])  # a kind that was away saves nothing up
        if len(self._row_seconds) > MOST_KEYS:  # callers may send images of any size
            for known in (self._row_seconds, self.served, self._last):
                known.clear()
        self.served[kind] = had + seconds
        self._turn = (had, had + seconds)
        self._last[kind] = Pass(jobs, rows, ended)
        old = self._row_seconds.get(kind, seconds / rows)
        self._row_seconds[kind] = (1 - SMOOTHING) * old + SMOOTHING * seconds / rows

    def doubt(self, key: Key) -> None:
        """Estimates that refuse work are never tested by it; lets one that was too high fall."""
        if key.kind in self._row_seconds:
            self._row_seconds[key.kind] *= 1 - SMOOTHING

    def worth_waiting(self, key: Key, jobs: Collection[Job], limit: int, now: float) -> float:
        """Seconds, for the callers that the last pass answered: who came while it ran is not one of them.

        Zero unless all jobs are new, in no hurry, fewer than such callers and these together, and leave room in a pass.
        """
        last = self._last.get(key)  # not of its kind: who shares no pass waits for nobody
        if last is None or any(job.rows for job in jobs):
            return 0.0
        expected = min(limit, last.jobs + sum(job.arrived < last.ended for job in jobs))
        seconds = self.pass_seconds(key)
        hurry = min(job.deadline for job in jobs) < now + 2 * seconds
        return 0.0 if hurry or len(jobs) >= expected else WAITING * seconds
