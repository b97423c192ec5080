"""Which requests are let in: by counters before they are parsed, and by the expected wait before they are decoded."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from ...config import LimitSettings, cores
from ...metrics import Metrics
from ...pool.forecast import Ask, Forecast, Load, forecast
from ...pool.members import Member
from ...pool.pool import Pool
from ...pool.wire import Task
from ..errors import RequestError, late
from .callers import Caller

MIN_BOUND_SECONDS, BOUND_IN_OWN_SECONDS = 2.0, 4.0  # the longest wait of interactive requests: the larger of both
SAFETY = 1.25  # an answer is expected to take so many times its estimate, so that what is let in comes in time
CALM_SECONDS, CALM_SHARE = 0.5, 0.25  # with less outstanding, in seconds or as a share of the time, nobody is refused
FULL_SECONDS = 60.0  # with so many seconds outstanding, a caller may hold its share of them only
JITTER = 0.5  # callers are told to come back after up to so much more than the expected time, not all at once
SMOOTHING = 0.2  # weight of the newest request in running means
CODEC_THREADS = max(2, cores())


class Full(RequestError):
    """RESOURCE_EXHAUSTED with a delay after which to try again, and the word that the metrics count it by."""

    def __init__(self, reason: str, text: str, seconds: float) -> None:
        delay = max(0.05, seconds) * (1 + JITTER * random.random())
        super().__init__(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", f"{text}; try again in {delay:.1f} s")
        self.retry_after, self.counted_as = delay, reason


class Admission:
    """The requests that are in, and what is to be expected of more. Its methods run on the event loop's thread."""

    def __init__(self, pool: Pool, limits: LimitSettings, metrics: Metrics) -> None:
        self._pool, self._limits, self._metrics = pool, limits, metrics
        self._in_flight: Counter[str] = Counter()  # requests by caller
        self._decoding: dict[object, Load] = {}  # what is expected of requests whose pictures are being decoded
        self._decode_seconds = 0.0  # mean time of decoding a request in its thread
        self._typical: dict[tuple[str, str], float] = {}  # mean seconds of requests by RPC and model
        metrics.wait.set_function(self.wait_now)
        metrics.capacity.set_function(self.capacity)

    @contextmanager
    def slot(self, caller: Caller, word: str, remaining: float | None) -> Iterator[None]:
        """Counts a request in and out. Raises Full where too many are in, DEADLINE_EXCEEDED for one that is late."""
        if remaining is not None and remaining <= 0:
            raise late()
        total = self._in_flight.total()
        most = self._limits.max_in_flight
        if total >= most:
            raise Full("in_flight", f"{total} requests are being worked on, as many as are let in", self.wait_now())
        if self._in_flight[caller.name] >= max(1, int(most * self._limits.caller_share)):
            held = self._in_flight[caller.name]
            raise Full("caller", f"this caller has {held} requests in, as many as one may have", self.wait_now())
        self._in_flight[caller.name] += 1
        try:
            with self._metrics.in_flight.labels(word).track_inprogress():
                yield
        finally:
            self._in_flight[caller.name] -= 1
            if not self._in_flight[caller.name]:
                del self._in_flight[caller.name]

    def busy(self, remaining: float | None) -> bool:
        """Whether so much is outstanding that a request which has that much time may have to be refused."""
        if not self._decoding and not self._pool.outstanding:
            return False
        seconds = min((_seconds(member) for member in self._pool.members), default=0.0) + self._decode_wait()
        seconds += sum(load.seconds for load in self._decoding.values()) / max(1, len(self._pool.members))
        return seconds > min(CALM_SECONDS, CALM_SHARE * (float("inf") if remaining is None else remaining))

    def check(self, task: Task) -> None:
        """Raises Full where a request would wait too long or come too late, by its task without the picture."""
        ask = Ask(task.caller, task.weight, task.priority == "interactive", task.model, task.precision, task.cost)
        expected = self.expect(ask)
        if expected is None:
            return
        self._check_share(ask)
        wait, end, own = expected
        if ask.interactive:
            bound = self._pool.queue_seconds or max(MIN_BOUND_SECONDS, BOUND_IN_OWN_SECONDS * own)
            if wait > bound:
                raise Full("queue", f"it would wait {wait:.1f} s, and may wait {bound:.1f} s", wait - bound)
        left = task.deadline - time.monotonic()
        needed = wait if task.allow_partial else SAFETY * end
        if needed > left:
            text = f"its answer would take about {needed:.1f} s, and it has {max(0.0, left):.1f} s"
            raise Full("deadline", text, needed - left)

    def check_alone(self, task: Task) -> None:
        """Raises DEADLINE_EXCEEDED for a request that cannot be answered in time even alone."""
        if task.allow_partial or not task.least_cost:
            return
        own = self._own(task) * task.least_cost / task.cost
        if own > task.deadline - time.monotonic():
            raise late(f"it takes about {own:.1f} s even alone; allow more time, or allow_partial")

    def expect(self, ask: Ask) -> Forecast | None:
        """What a request has to expect on the worker that would answer it first; None where none is ready."""
        members = self._pool.members
        waiting = [load._replace(seconds=load.seconds / max(1, len(members))) for load in self._decoding.values()]
        found = [
            forecast(ask, member.seconds(ask), *member.full_pass(ask), [*member.loads(), *waiting])
            for member in members
            if member.knows(ask)
        ]
        if not found:
            return None
        best = min(found, key=lambda each: each.end)
        delay = self._decode_wait()
        return Forecast(best.wait + delay, best.end + delay, best.own)

    @contextmanager
    def decoding(self, caller: Caller, rpc: str, model: str, expected: Task | None) -> Iterator[None]:
        """Counts a request as outstanding while its picture is decoded; `expected`: its task, if that is known."""
        seconds = self._typical.get((rpc, model), 0.0) if expected is None else self._own(expected)
        interactive = expected is None or expected.priority == "interactive"
        place = object()
        self._decoding[place] = Load(caller.name, caller.weight, interactive, seconds)
        try:
            yield
        finally:
            del self._decoding[place]

    def note(self, rpc: str, model: str, task: Task, decode_seconds: float) -> None:
        """Learns from a request that was decoded."""
        self._decode_seconds += SMOOTHING * (decode_seconds - self._decode_seconds)
        kind, own = (rpc, model), self._own(task)
        self._typical[kind] = (1 - SMOOTHING) * self._typical.get(kind, own) + SMOOTHING * own

    def wait_now(self) -> float:
        """Seconds that an interactive request of a new caller would wait for its first pass, by the default model."""
        card = self._pool.cards.get(self._pool.cards.default)
        if card is None:
            return 0.0
        expected = self.expect(Ask("", 1.0, True, card.name, card.auto.get("explain", "exact"), card.gflop))
        return 0.0 if expected is None else expected.wait

    def capacity(self) -> float:
        """GFLOP per second that all workers had lately, by the default model."""
        name = self._pool.cards.default
        return sum(member.speeds.get((name, "exact"), 0.0) for member in self._pool.members)

    def _own(self, task: Task) -> float:
        return min((member.seconds(task) for member in self._pool.members if member.knows(task)), default=0.0)

    def _decode_wait(self) -> float:
        return len(self._decoding) * self._decode_seconds / CODEC_THREADS

    def _check_share(self, ask: Ask) -> None:
        loads = [load for member in self._pool.members for load in member.loads()]
        total = sum(load.seconds for load in loads)
        mine = sum(load.seconds for load in loads if load.caller == ask.caller)
        if total > FULL_SECONDS and 0 < mine < total and mine > self._limits.caller_share * total:
            raise Full("caller", f"this caller has {mine:.0f} s of {total:.0f} s outstanding, its share and more", 1.0)


def _seconds(member: Member) -> float:
    return sum(load.seconds for load in member.loads())
