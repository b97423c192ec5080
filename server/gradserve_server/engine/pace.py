"""How long passes of each kind take, whose turn it is, and whether others are worth waiting for."""

from collections.abc import Collection
from typing import NamedTuple

from .job import Job
from .take import Key

MAX_KEYS = 1000
SMOOTHING = 0.3  # weight of the newest pass in the running estimates
WAIT_PASS_SHARE = 0.5  # of a pass's seconds; the engine waits so long after it for the callers that it answered
MIN_RETURN_SHARE = 0.6  # of the callers waited for who came back; below it the engine does not wait
RETURN_SHARE_GROWTH = 0.01  # added per pass, so that clients we stopped waiting for are tried again


class SharedPass(NamedTuple):
    """The last pass of a kind that several may share."""

    jobs: int
    rows: int
    ended: float


class BatchWait(NamedTuple):
    """How many jobs came while the last pass ran, how many there are, and how many are enough."""

    kind: Key
    meanwhile: int
    present: int
    enough: int


class Pace:
    """What an engine learns of its passes, by kind of key."""

    def __init__(self) -> None:
        self.served: dict[Key, float] = {}  # seconds of passes that a kind has had, counted from where it joined
        self._row_seconds: dict[Key, float] = {}
        self._last: dict[Key, SharedPass] = {}
        self._back: dict[Key, float] = {}  # share of the callers waited for who came back
        self._wait: BatchWait | None = None
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
        self._judge(kind, began)
        had = max(self.served[kind], self._turn[0])  # an idle key does not accumulate credit
        if len(self._row_seconds) > MAX_KEYS:  # callers may send images of any size
            for known in (self._row_seconds, self.served, self._last, self._back):
                known.clear()
        self.served[kind] = had + seconds
        self._turn = (had, had + seconds)
        if key == kind:
            self._last[kind] = SharedPass(jobs, rows, ended)
        else:  # a query that runs alone says nothing about who returns for the next batch
            self._last.setdefault(kind, SharedPass(0, rows, ended))
        old = self._row_seconds.get(kind, seconds / rows)
        self._row_seconds[kind] = (1 - SMOOTHING) * old + SMOOTHING * seconds / rows

    def doubt(self, key: Key) -> None:
        """Estimates that refuse work are never tested by it; lets one that was too high fall."""
        if key.kind in self._row_seconds:
            self._row_seconds[key.kind] *= 1 - SMOOTHING

    def worth_waiting(self, key: Key, jobs: Collection[Job], room: int, now: float) -> float:
        """Seconds from now, for callers that the last pass answered: who came while it ran is not one of them.

        Zero if one of the jobs runs or is in a hurry, if they fill a pass's `room` in rows or are as many as those
        callers and these together, and where callers did not come back lately.
        """
        last = self._last.get(key)  # a query that runs alone has no last pass, and does not wait
        if last is None or any(job.rows for job in jobs):
            return 0.0
        seconds = self.pass_seconds(key)
        left = last.ended + WAIT_PASS_SHARE * seconds - now
        hurry = min(job.deadline for job in jobs) < now + 2 * seconds
        if hurry or left <= 0 or self._back.get(key, 1.0) < MIN_RETURN_SHARE:
            return 0.0
        present, meanwhile = len(jobs), sum(job.arrived < last.ended for job in jobs)
        full = sum(query.left for job in jobs for query in job.open) >= room
        self._wait = BatchWait(key, meanwhile, present, present if full else last.jobs + meanwhile)
        return left if present < self._wait.enough else 0.0

    def _judge(self, kind: Key, began: float) -> None:
        """Before a pass of that kind: whether callers came back, or others came as they did during the last pass."""
        wait, self._wait = self._wait, None
        back = self._back.get(kind, 1.0)
        if wait is not None and wait.kind == kind and wait.enough > wait.meanwhile:
            usual = wait.meanwhile * (began - self._last[kind].ended) / self.pass_seconds(kind)
            share = (wait.present - wait.meanwhile - usual) / (wait.enough - wait.meanwhile)
            back += SMOOTHING * (min(max(share, 0.0), 1.0) - back)
        self._back[kind] = min(1.0, back + RETURN_SHARE_GROWTH)
