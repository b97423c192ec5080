"""Which requests are let in: by counters before they are parsed, and by the expected wait before they are decoded."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ...config import LimitSettings, cores
from ...metrics import Metrics
from ...models.card import ModelCard
from ...pool.forecast import Forecast, Load, Prospect, forecast
from ...pool.members import Member
from ...pool.pool import Pool
from ...pool.wire import Task
from ..errors import Full, late, partial_hint
from .callers import NOBODY, Caller

# The longest wait of an interactive request: so many seconds, or so many times what it takes itself, if that is more.
MIN_BOUND_SECONDS, BOUND_IN_OWN_SECONDS = 2.0, 4.0
SAFETY_FACTOR = 1.25  # What an estimate is multiplied by before it is compared with the deadline.
# A request is not checked while less is outstanding than so many seconds, and than this share of the time that it has.
UNCHECKED_SECONDS, UNCHECKED_SHARE = 0.5, 0.25
SPARE_FACTOR = 2.5  # What an estimate is multiplied by before a request is given more to do than it asks for.
SHARE_CHECK_SECONDS = 60.0  # Where more is outstanding, a caller may hold no more than its share.
MAX_AGE_SECONDS = 0.025  # Age up to which forecasts and sums are used again, since refusals come in crowds.
MAX_FORECASTS = 1000
WAIT_SECONDS = 0.1  # Age up to which the estimated wait of a caller who may have no more places is used again.
SMOOTHING = 0.2  # Weight of the newest request in running means.
CODEC_THREADS = max(2, cores())


class Outstanding(NamedTuple):
    """What was outstanding on a worker at the time `read` (monotonic clock): its seconds in all, and by caller."""

    read: float
    loads: list[Load]
    seconds: float
    by_caller: dict[str, float]


class Admission:
    """Counts the requests that are let in, and forecasts how long others would wait.

    Its methods run on the event loop's thread.
    """

    def __init__(self, pool: Pool, limits: LimitSettings, metrics: Metrics) -> None:
        self._pool, self._limits, self._metrics = pool, limits, metrics
        self._in_flight: Counter[str] = Counter()  # The number of requests by caller.
        self._decoding: dict[object, Load] = {}  # What requests whose pictures are being decoded will take.
        self._decode_seconds = 0.0  # The mean time of decoding a request in its thread.
        # Mean seconds by RPC and model: of a whole request, and of a row.
        self._typical: dict[tuple[str, str], tuple[float, float]] = {}
        self._outstanding: dict[int, Outstanding] = {}  # By the worker's process id.
        self._forecasts: dict[Prospect, tuple[float, Forecast | None]] = {}  # Each with the time at which it was made.
        # The time and the value of the last estimate of each caller's wait who had too many requests in.
        self._waits: dict[str, tuple[float, float]] = {}

    @property
    def requests(self) -> int:
        """How many requests are being worked on."""
        return self._in_flight.total()

    @contextmanager
    def slot(self, caller: Caller, word: str, remaining: float | None) -> Iterator[None]:
        """Counts a request while the `with` runs.

        Raises Full where too many are being worked on, DEADLINE_EXCEEDED for one that has no time left.
        """
        if remaining is not None and remaining <= 0:
            raise late()
        total, held = self._in_flight.total(), self._in_flight[caller.name]
        most = self._limits.max_in_flight
        if total >= most:
            text = f"{total} requests are being worked on, as many as are let in"
            raise Full("in_flight", text, self._wait_of(caller))
        if held >= max(1, int(most * self._limits.caller_share)):
            raise Full("caller", f"this caller has {held} requests in, as many as one may have", self._wait_of(caller))
        self._in_flight[caller.name] += 1
        try:
            with self._metrics.in_flight.labels(word).track_inprogress():
                yield
        finally:
            self._in_flight[caller.name] -= 1
            if not self._in_flight[caller.name]:
                del self._in_flight[caller.name]

    def busy(self, left: float) -> bool:
        """Whether so much work is outstanding that a request that has `left` seconds may have to be refused."""
        if not self._decoding and all(member.idle for member in self._pool.members):
            return False
        seconds = min((self._left(member).seconds for member in self._pool.members), default=0.0) + self._decode_wait()
        seconds += sum(load.seconds for load in self._decoding.values()) / max(1, len(self._pool.members))
        return seconds > min(UNCHECKED_SECONDS, UNCHECKED_SHARE * left)

    def check(self, task: Task) -> None:
        """Raises Full where a request would wait too long or come too late, by its task without the picture."""
        self.check_alone(task)
        request = _prospect(task)
        expected = self.expect(request)
        if expected is None:
            return
        self._check_share(request)
        wait, end, own = expected
        if request.interactive:
            bound = self._pool.queue_seconds or max(MIN_BOUND_SECONDS, BOUND_IN_OWN_SECONDS * own)
            if wait > bound:
                raise Full("queue", f"it would wait {wait:.1f} s, and may wait {bound:.1f} s", wait - bound)
        left = task.deadline - time.monotonic()
        needed = wait if task.allow_partial else SAFETY_FACTOR * end
        if needed > left:
            text = f"its answer would take about {needed:.1f} s, and it has {max(0.0, left):.1f} s"
            raise Full("deadline", text, needed - left)

    def has_spare_time(self, task: Task) -> bool:
        """Whether a request would be answered long before its deadline even if it did more than it asks for.

        `task`: that of the request with the additional work.
        """
        left = task.deadline - time.monotonic()
        expected = None if left == float("inf") else self.expect(_prospect(task))
        return left == float("inf") or (expected is not None and SPARE_FACTOR * expected.end <= left)

    def check_least(self, request: Prospect, left: float) -> None:
        """Raises Full where even an answer that costs nothing would come later than in `left` seconds.

        Unlike `check` it needs no task, and reading a request takes half of the time of refusing it.
        """
        expected = self.expect(request)
        needed = 0.0 if expected is None else SAFETY_FACTOR * expected.end
        if needed > left:
            text = f"any answer would take about {needed:.1f} s, and it has {max(0.0, left):.1f} s"
            raise Full("deadline", text, needed - left)

    def check_alone(self, task: Task) -> None:
        """Raises DEADLINE_EXCEEDED for a request that cannot be answered in time even alone.

        An attack may find the picture misclassified already, and end after its first row.
        """
        if task.allow_partial or not task.least_cost or task.rpc == "attack":
            return
        members = self._pool.members
        least = min((member.least_seconds(task) for member in members if member.knows(task)), default=0.0)
        if least > task.deadline - time.monotonic():
            raise late(f"it takes about {least:.1f} s even alone; allow more time{partial_hint(task)}")

    def expect(self, request: Prospect) -> Forecast | None:
        """The forecast for a request on the worker that would answer it first; None where no worker is ready."""
        now = time.monotonic()
        made, expected = self._forecasts.get(request, (float("-inf"), None))
        if now - made > MAX_AGE_SECONDS:
            expected = self._forecast(request)
            if len(self._forecasts) >= MAX_FORECASTS:
                self._forecasts.clear()
            self._forecasts[request] = now, expected
        return expected

    def _forecast(self, request: Prospect) -> Forecast | None:
        members = [member for member in self._pool.members if member.knows(request)]
        share = 1 / max(1, len(members))
        waiting = [load._replace(seconds=load.seconds * share) for load in list(self._decoding.values())]
        forecasts = [
            forecast(request, each.seconds(request), each.rows_of(request), [*self._left(each).loads, *waiting])
            for each in members
        ]
        if not forecasts:
            return None
        best = min(forecasts, key=lambda each: each.end)
        delay = self._decode_wait()  # Meanwhile the worker goes on with what it has.
        return Forecast(max(best.wait, delay), max(best.end, delay + best.own), best.own)

    @contextmanager
    def decoding(self, caller: Caller, rpc: str, model: str, expected: Task | None) -> Iterator[None]:
        """Counts a request as outstanding while its picture is decoded; `expected`: its task, if that is known."""
        seconds, row = self._typical.get((rpc, model), (0.0, 0.0)) if expected is None else self._own(expected)
        interactive = expected is None or expected.priority == "interactive"
        place = object()
        self._decoding[place] = Load(caller.name, caller.weight, interactive, seconds, row)
        try:
            yield
        finally:
            del self._decoding[place]

    def note(self, rpc: str, model: str, task: Task, decode_seconds: float) -> None:
        """Learns from a request that was decoded."""
        self._decode_seconds += SMOOTHING * (decode_seconds - self._decode_seconds)
        own, row = self._own(task)
        usual, usual_row = self._typical.get((rpc, model), (own, row))
        self._typical[rpc, model] = usual + SMOOTHING * (own - usual), usual_row + SMOOTHING * (row - usual_row)

    def wait_now(self, caller: Caller = NOBODY) -> float:
        """Seconds that an interactive request of that caller would wait for its first pass, by the default model."""
        card = self._usual_card
        if card is None:
            return 0.0
        precision = card.auto.get("explain", "exact")
        expected = self.expect(Prospect(*caller, True, card.name, precision, card.gflop))
        return 0.0 if expected is None else expected.wait

    def update_gauges(self) -> None:
        """Sets the metrics that change with time."""
        self._metrics.cost.set(self._pool.outstanding)
        self._metrics.wait.set(self.wait_now())
        self._metrics.capacity.set(self.capacity())

    def capacity(self) -> float:
        """GFLOP per second that all workers had lately, by the default model."""
        card = self._usual_card
        return 0.0 if card is None else sum(each.speeds.get((card.name, "exact"), 0.0) for each in self._pool.members)

    @property
    def _usual_card(self) -> ModelCard | None:
        """The default model's, or another one's where that is not loaded."""
        cards = self._pool.cards
        return cards.get(cards.default) or next(iter(cards.values()), None)

    def _wait_of(self, caller: Caller) -> float:
        """The caller's wait, estimated anew when it is older than WAIT_SECONDS."""
        now = time.monotonic()
        when, wait = self._waits.get(caller.name, (float("-inf"), 0.0))
        if now - when > WAIT_SECONDS:
            wait = self.wait_now(caller)
            self._waits = {name: each for name, each in self._waits.items() if now - each[0] <= WAIT_SECONDS}
            self._waits[caller.name] = now, wait
        return wait

    def _left(self, member: Member) -> Outstanding:
        """What is outstanding on a worker. Requests of the last MAX_AGE_SECONDS may be missing."""
        now = time.monotonic()
        known = self._outstanding.get(member.pid)
        if known is not None and now - known.read <= MAX_AGE_SECONDS:
            return known
        loads, by_caller = member.loads(), dict[str, float]()
        for load in loads:
            by_caller[load.caller] = by_caller.get(load.caller, 0.0) + load.seconds
        if len(self._outstanding) > len(self._pool.members):
            self._outstanding.clear()  # A worker that died has left its number.
        self._outstanding[member.pid] = Outstanding(now, loads, sum(by_caller.values()), by_caller)
        return self._outstanding[member.pid]

    def _own(self, task: Task) -> tuple[float, float]:
        """Seconds that a task takes alone, and that one gradient of its model takes; 0 where they are not known."""
        members = [member for member in self._pool.members if member.knows(task)]
        return min(((each.seconds(task), each.row_seconds(task)) for each in members), default=(0.0, 0.0))

    def _decode_wait(self) -> float:
        return len(self._decoding) * self._decode_seconds / CODEC_THREADS

    def _check_share(self, request: Prospect) -> None:
        left = [self._left(member) for member in self._pool.members]
        total, mine = sum(each.seconds for each in left), sum(each.by_caller.get(request.caller, 0.0) for each in left)
        if total > SHARE_CHECK_SECONDS and 0 < mine < total and mine > self._limits.caller_share * total:
            raise Full("caller", f"this caller has {mine:.0f} s of {total:.0f} s outstanding, its share and more", 1.0)


def _prospect(task: Task) -> Prospect:
    interactive = task.priority == "interactive"
    return Prospect(task.caller, task.weight, interactive, task.model, task.precision, task.cost, task.alone)
