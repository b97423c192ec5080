"""How long a request would wait on a worker, by what is outstanding there and how fast its passes were."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from ..engine.schedule import MAX_PASS_SECONDS
from ..engine.take import MAX_OVERDUE_SECONDS, NEW_JOBS_SHARE, OVERDUE_PASSES
from ..models.card import Precision

MIN_LEFT_SECONDS = 1e-6  # A load with less work left than this is done: the rest is a rounding error.


class Prospect(NamedTuple):
    """What admission knows of a request: who sends it, what it runs on, and what it costs in GFLOP.

    alone: whether each of its rows has a pass of its own.
    """

    caller: str
    weight: float
    interactive: bool
    model: str
    precision: Precision
    cost: float
    alone: bool = False


class Load(NamedTuple):
    """The outstanding work of one task on a worker.

    seconds: how long its remaining passes take. row_seconds: how long one gradient of its model takes. rows: the most
    such gradients in one pass. begun: whether one of its passes has run.
    """

    caller: str
    weight: float
    interactive: bool
    seconds: float
    row_seconds: float = 0.0
    rows: int = 1
    begun: bool = False


class Forecast(NamedTuple):
    """Seconds from now: until a request's first pass, until its answer, and what its own work takes alone."""

    wait: float = 0.0
    end: float = 0.0
    own: float = 0.0


def forecast(request: Prospect, own: float, rows: int, loads: Iterable[Load]) -> Forecast:
    """The forecast for a request that takes `own` seconds alone, beside the loads of one worker.

    `rows`: the most rows of the request's kind in one pass. Of batch work, interactive requests wait only for the pass
    that is running. Work is dealt evenly: each caller has its share of the device, and each other job delays a request
    by at most the request's own seconds.
    """
    everything = list(loads)
    if not everything:
        return Forecast(0.0, own, own)
    running, left = _running_pass(request, everything)
    before = [load for load in left if load.interactive] if request.interactive else left
    same_caller = [load for load in before if load.caller == request.caller]
    share = _share(request, before)
    wait = min(_first_row(before, running, rows), _first_row(same_caller, running, rows) / share)
    others = sum(min(load.seconds, own) for load in before)
    own_others = sum(min(load.seconds, own) for load in same_caller)
    shared = min(others + own, (own_others + own) / share)
    return Forecast(running + wait, max(running + wait + own, running + shared), own)


def _running_pass(request: Prospect, loads: list[Load]) -> tuple[float, list[Load]]:
    """Seconds until the running pass ends, and the loads that remain then, less the work that the pass does for them.

    Which pass is running is not known, so the longest one is assumed. Its time is divided evenly among the jobs that
    could share it, with at least one row each: first batch jobs if the request is interactive, then the jobs of other
    callers, then the rest.
    """
    passes = [load.rows * load.row_seconds for load in loads]
    longest = max(passes)
    running = min(MAX_PASS_SECONDS, longest, sum(load.seconds for load in loads))
    sharing = [(place, loads[place]) for place, seconds in enumerate(passes) if seconds == longest]
    even, undone, left = running / len(sharing), running, dict(enumerate(loads))
    batch = (each for each in sharing if request.interactive and not each[1].interactive)
    others = (each for each in sharing if each[1].caller != request.caller)
    for place, load in chain(batch, others, sharing):
        if undone <= 0:
            break
        if left.get(place) is load:
            done = min(load.seconds, max(load.row_seconds, even), undone)
            undone -= done
            left[place] = load._replace(seconds=load.seconds - done)
            if load.seconds - done <= MIN_LEFT_SECONDS:
                del left[place]
    return running, list(left.values())


def _share(request: Prospect, loads: Iterable[Load]) -> float:
    """The caller's share of the device beside all who have work outstanding."""
    weights: Mapping[str, float] = {load.caller: load.weight for load in loads} | {request.caller: request.weight}
    return request.weight / sum(weights.values())


def _first_row(loads: list[Load], running: float, rows: int) -> float:
    """Seconds from the end of the running pass until a new job's first row.

    A pass has room for `rows` jobs, and those beyond it must end first. But once the new job is overdue it waits only
    for other new jobs, in the rows that are reserved for them. Where a pass has one row, jobs take turns.
    """
    count = len(loads)
    ahead = sum(load.seconds for load in loads) * max(0, count - rows + 1) / max(1, count)
    if rows == 1:
        return min(ahead, sum(min(load.seconds, load.row_seconds) for load in loads) / NEW_JOBS_SHARE)
    new = sum(min(load.seconds, load.row_seconds) for load in loads if not load.begun)
    return min(ahead, min(OVERDUE_PASSES * running, MAX_OVERDUE_SECONDS) + new / NEW_JOBS_SHARE)
