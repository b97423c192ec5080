"""How many requests a second a server answers in time, found in steps: callers that wait first, then an open loop."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gradserve.load.figures import EntryFigures, LoadFigures
from gradserve.load.loops import ClosedLoop, Loop, OpenLoop

_CALLERS = (4, 8, 16, 32, 64, 128, 256)
_MIN_GAIN = 1.05  # More callers are tried until two steps in turn raise the rate by less than this factor.
_MIN_FOLLOWED = 0.95  # Share of the offered rate that goodput must reach to follow it.
# Rates of the open loop, as shares of the callers' rate: upwards until one fails; downwards where the first one does.
_UPWARDS = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5)
_DOWNWARDS = (0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
MAX_STEPS = len(_CALLERS) + len(_UPWARDS)

Run = Callable[[Loop], Awaitable[LoadFigures]]


@dataclass(frozen=True)
class Capacity:
    """What a server can do, in answers per second within their deadline.

    rate: the goodput of the fastest open loop that the server followed within the bound of latency; 0 where it
    followed none. closed_rate: the best goodput of callers that wait for their answers, and callers: how many they
    were. how: what was found, in words.
    """

    rate: float
    closed_rate: float
    callers: int
    how: str


async def find(run: Run, *, seconds: float, warm_up: float, max_p95: float, max_under_way: int) -> Capacity:
    """The capacity, by at most MAX_STEPS loads of so many seconds each.

    max_p95: bound of the 95th percentile of the answers' latency, in seconds.
    """
    callers, closed_rate = await _closed(run, seconds, warm_up)
    if not closed_rate:
        return Capacity(0.0, 0.0, 0, "no caller was answered within the deadline")

    async def tried(share: float) -> tuple[float, str]:
        figures = (await run(OpenLoop(share * closed_rate, seconds, warm_up, max_under_way))).all
        return figures.goodput, _failure(figures, max_p95)

    best, limit = 0.0, ""
    for share in _UPWARDS:
        rate, limit = await tried(share)
        if limit:
            break
        best = rate
    for share in () if best else _DOWNWARDS:
        rate, failure = await tried(share)
        if not failure:
            best = rate
            break
        limit = failure
    return Capacity(best, closed_rate, callers, _how(best, limit))


async def _closed(run: Run, seconds: float, warm_up: float) -> tuple[int, float]:
    """How many callers get the most answers per second, and how many answers."""
    callers, best, without_gain = 0, 0.0, 0
    for more in _CALLERS:
        rate = (await run(ClosedLoop(more, seconds, warm_up))).all.goodput
        without_gain = 0 if rate > _MIN_GAIN * best else without_gain + 1
        if rate > best:
            callers, best = more, rate
        if without_gain == 2:
            break
    return callers, best


def _how(best: float, limit: str) -> str:
    found = f"an open loop was answered at {best:.1f}/s" if best else "no open loop was slow enough"
    return f"{found}; {limit or 'faster ones were not tried'}"


def _failure(figures: EntryFigures, max_p95: float) -> str:
    """Why an open loop is more than the server can do; empty if it is not."""
    if figures.goodput < _MIN_FOLLOWED * figures.offered:
        return f"of {figures.offered:.1f}/s only {figures.goodput:.1f}/s were answered in time"
    if figures.ok and figures.ok.p95 > max_p95:
        return f"at {figures.offered:.1f}/s the p95 was {figures.ok.p95:.3f} s, above {max_p95:g} s"
    return ""
