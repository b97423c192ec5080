"""How long a request would wait on a worker, by what is outstanding there and how fast its passes were."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..models.card import Precision

MAX_PASS_SECONDS = 2.0  # the longest pass that others wait for
OVERDUE_PASSES, MAX_OVERDUE_SECONDS = 12, 5.0  # after so many passes or seconds a new job gets rows beside running ones
NEW_JOBS_SHARE = 4  # one row of so many is for such jobs


class Ask(NamedTuple):
    """What admission knows of a request: who asks, what it runs on, and what it costs in GFLOP."""

    caller: str
    weight: float
    interactive: bool
    model: str
    precision: Precision
    cost: float


class Load(NamedTuple):
    """Outstanding work: whose it is, the seconds of passes that are left of it, and whether it has had its first."""

    caller: str
    weight: float
    interactive: bool
    seconds: float
    begun: bool = False


class Forecast(NamedTuple):
    """Seconds from now: until a request's first pass, until its answer, and what its own work takes alone."""

    wait: float = 0.0
    end: float = 0.0
    own: float = 0.0


def forecast(ask: Ask, own: float, row_seconds: float, rows: int, loads: Iterable[Load]) -> Forecast:
    """The estimate for a request that takes `own` seconds alone, beside the loads of one worker.

    `row_seconds` and `rows`: the seconds of one gradient of its model, and how many a pass may have. Interactive
    requests wait for no batch work but the pass that runs. Work is dealt evenly: a caller has its share of the device,
    and nobody takes more seconds from a request than it has itself.
    """
    everything = list(loads)
    if not everything:
        return Forecast(0.0, own, own)
    before = [load for load in everything if load.interactive or not ask.interactive]
    mine = [load for load in before if load.caller == ask.caller]
    share = _share(ask, before)
    running = min(MAX_PASS_SECONDS, rows * row_seconds, sum(load.seconds for load in everything))
    wait = min(_first_pass(before, running, row_seconds, rows), _first_pass(mine, running, row_seconds, rows) / share)
    others = sum(min(load.seconds, own) for load in before)
    own_others = sum(min(load.seconds, own) for load in mine)
    shared = min(others + own, (own_others + own) / share)
    return Forecast(running + wait, max(running + wait + own, running + shared), own)


def _share(ask: Ask, loads: Iterable[Load]) -> float:
    """The caller's share of the device beside all who have work outstanding."""
    weights: Mapping[str, float] = {load.caller: load.weight for load in loads} | {ask.caller: ask.weight}
    return ask.weight / sum(weights.values())


def _first_pass(loads: list[Load], running: float, row_seconds: float, rows: int) -> float:
    """Seconds of passes before a new job's first one: those that do not fit beside it must end, or it is overdue."""
    count = len(loads)
    ahead = sum(load.seconds for load in loads) * max(0, count - rows + 1) / max(1, count)
    new = sum(min(load.seconds, row_seconds) for load in loads if not load.begun)
    return min(ahead, min(OVERDUE_PASSES * running, MAX_OVERDUE_SECONDS) + NEW_JOBS_SHARE * new)
