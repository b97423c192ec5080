"""How long passes of each kind take, and whether others are worth waiting for."""

from collections import deque
from collections.abc import Collection
from statistics import median_low
from typing import NamedTuple

from .job import Job
from .take import Key

MAX_KEYS = 1000  # Most kinds of keys whose times are remembered.
SMOOTHING = 0.3  # Weight of the newest pass in the running estimates.
USUAL_PASSES = 5  # The latest passes whose median is the usual time of a row.
WAIT_PASS_SHARE = 0.5  # Longest wait for the callers that a pass answered, as a share of its seconds.
MIN_RETURN_SHARE = 0.6  # Smallest share of the awaited callers who came back, for which the engine waits again.
RETURN_SHARE_GROWTH = 0.01  # Added per pass, so that clients we stopped waiting for are tried again.


class SharedPass(NamedTuple):
    """The last pass of a kind, if several jobs could share it: its jobs and rows, and when it ended in seconds."""

    jobs: int
    rows: int
    ended: float


class BatchWait(NamedTuple):
    """A wait for jobs: how many arrived while the last pass ran, how many are there now, and how many end the wait."""

    kind: Key
    arrived: int
    present: int
    enough: int


class Pace:
    """What an engine learns from its passes, for each kind of key: how long they take, and how soon callers return."""

    def __init__(self) -> None:
        self._row_seconds: dict[Key, float] = {}
        self._measured: dict[Key, float] = {}  # The same, without what `doubt` takes away.
        self._latest: dict[Key, deque[float]] = {}  # Seconds of a row in each of the latest passes.
        self._last: dict[Key, SharedPass] = {}
        self._back: dict[Key, float] = {}  # Share of the awaited callers who came back.
        self._wait: BatchWait | None = None

    def row_seconds(self, key: Key) -> float:
        """The estimated seconds of a row of that kind; 0 if there was none yet."""
        return self._row_seconds.get(key.kind, 0.0)

    def usual_row_seconds(self, key: Key) -> float:
        """The median seconds of a row in the latest passes of that kind, which one that was held up does not change."""
        latest = self._latest.get(key.kind)
        return median_low(latest) if latest else 0.0

    def pass_seconds(self, key: Key) -> float:
        """The estimated seconds of a pass as large as the last one of that kind; 0 if there was none yet."""
        last = self._last.get(key.kind)
        return last.rows * self.row_seconds(key) if last else 0.0

    def expected(self, key: Key, rows: int) -> float:
        """The seconds that a pass over that many rows should take, by those that were run; 0 if there was none."""
        return rows * self._measured.get(key.kind, 0.0)

    def learn(self, key: Key, jobs: int, rows: int, began: float, ended: float) -> None:
        """Notes a pass over that many rows of that many jobs, with its begin and end in seconds."""
        kind, seconds = key.kind, ended - began
        self._judge(kind, began)
        if len(self._row_seconds) > MAX_KEYS:  # Callers may send images of any size.
            for known in (self._row_seconds, self._measured, self._latest, self._last, self._back):
                known.clear()
        if key == kind:
            self._last[kind] = SharedPass(jobs, rows, ended)
        else:  # A query that shares no pass says nothing about who returns for the next batch.
            self._last.setdefault(kind, SharedPass(0, rows, ended))
        self._latest.setdefault(kind, deque(maxlen=USUAL_PASSES)).append(seconds / rows)
        for estimates in (self._row_seconds, self._measured):
            old = estimates.get(kind, seconds / rows)
            estimates[kind] = (1 - SMOOTHING) * old + SMOOTHING * seconds / rows

    def doubt(self, key: Key) -> None:
        """Lowers the estimate of a kind that has ended a job early: if it was too high, no pass would correct it."""
        if key.kind in self._row_seconds:
            self._row_seconds[key.kind] *= 1 - SMOOTHING

    def worth_waiting(self, key: Key, jobs: Collection[Job], room: int, now: float) -> float:
        """Seconds to wait from `now` for the callers that the last pass answered, who may soon ask again.

        Zero if a job has begun, if a deadline is near, if callers seldom came back lately, or if enough jobs are there:
        as many as the last pass answered and as arrived while it ran, or as fill `room` rows.
        """
        last = self._last.get(key)  # A query that shares no pass has no last one, and does not wait.
        if last is None or any(job.rows for job in jobs):
            return 0.0
        seconds = self.pass_seconds(key)
        left = last.ended + WAIT_PASS_SHARE * seconds - now
        urgent = min(job.deadline for job in jobs) < now + 2 * seconds
        if urgent or left <= 0 or self._back.get(key, 1.0) < MIN_RETURN_SHARE:
            return 0.0
        present, arrived = len(jobs), sum(job.arrived < last.ended for job in jobs)
        full = sum(query.left for job in jobs for query in job.open) >= room
        self._wait = BatchWait(key, arrived, present, present if full else last.jobs + arrived)
        return left if present < self._wait.enough else 0.0

    def _judge(self, kind: Key, began: float) -> None:
        """Learns from the last wait which share of the awaited callers came back; called as a pass of that kind begins.

        Jobs that would have come without a wait, at the rate at which they arrived during the last pass, do not count.
        """
        wait, self._wait = self._wait, None
        back = self._back.get(kind, 1.0)
        if wait is not None and wait.kind == kind and wait.enough > wait.arrived:
            usual = wait.arrived * (began - self._last[kind].ended) / self.pass_seconds(kind)
            share = (wait.present - wait.arrived - usual) / (wait.enough - wait.arrived)
            back += SMOOTHING * (min(max(share, 0.0), 1.0) - back)
        self._back[kind] = min(1.0, back + RETURN_SHARE_GROWTH)
