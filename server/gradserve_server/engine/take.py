"""Which rows go into the next pass: one pure function and the whole policy."""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heapreplace
from math import ceil
from typing import NamedTuple, Protocol

from ..models.card import Precision

NEW_JOBS_SHARE = 0.25  # Share of the rows of a pass that is reserved for new jobs that are overdue.
OVERDUE_PASSES = 12  # Passes after which a job that waits for its first row is overdue.
MAX_OVERDUE_SECONDS = 5.0  # Longest wait in seconds before it is overdue, where passes are slow.
STEPPING_BATCH_SHARE = 0.6  # Batch cap, as a share of the limit, while iterative jobs wait for their next step.
DEFAULT_DUE_SECONDS = 30.0  # A request for rows that has no deadline is due after so long.
BATCH_AGEING_SECONDS = 5.0  # A batch job's query that has waited so long counts as interactive.


class Key(NamedTuple):
    """What rows must agree in to share a pass.

    `wrt` is what they differentiate by. `unshared` is the number of a query that shares its passes with no other one,
    or 0. `alone` says that each row has a pass of its own. `permuted` is the layer whose weights are permuted, or "".
    """

    model: str
    precision: Precision
    height: int
    width: int
    wrt: str
    unshared: int = 0
    alone: bool = False
    permuted: str = ""

    @property
    def kind(self) -> "Key":
        """The key without a query's number: passes of one kind take equally long."""
        return self._replace(unshared=0) if self.unshared else self


class RowRequest(NamedTuple):
    """Rows that a query waits for.

    `since` is when the query was asked, and `running` says whether its job has had a row before.
    """

    query: object
    key: Key
    rows: int
    running: bool
    interactive: bool
    deadline: float
    since: float
    job: object = None  # The query's job; None stands for a job of this query alone.
    caller: str = ""  # Who asked.
    weight: float = 1.0  # The caller's share beside others.

    @property
    def owner(self) -> object:
        """The job; rows are dealt evenly among jobs."""
        return self.query if self.job is None else self.job


class SecondsHad(Protocol):
    """What callers have had so far, in seconds of passes."""

    def had(self, caller: str) -> float:
        """A caller's seconds, divided by its weight."""

    def had_kind(self, caller: str, key: Key) -> float:
        """A caller's seconds in passes of that key's kind."""


class Overdue(NamedTuple):
    """A request of a new job is overdue if it was made before `asked` or its deadline is before `due`."""

    asked: float
    due: float


def take(
    requests: Sequence[RowRequest],
    limit: Callable[[Key], int],
    served: SecondsHad,
    now: float,
    pass_seconds: Callable[[Key], float],
    most: int | None = None,
) -> list[tuple[RowRequest, int]]:
    """The requests that are served in the next pass, with the number of rows that each gets.

    A pass has rows of one key. Of the callers with requests of the most urgent priority, the one that has had the
    fewest seconds is next; of the keys of its requests, the one on which it has had the fewest. Rows of other callers
    with that key share the pass, dealt so that the callers' seconds come closer to each other. Batch jobs get the rows
    that interactive jobs leave.

    Within a priority and a caller, each running job gets a row first, so that jobs of many steps come to an end. A
    share of the rows (NEW_JOBS_SHARE), at least one, is reserved for new jobs that are overdue. The other rows are
    dealt one by one, by deadline or else by age, so that a job with many rows does not push out one with few.

    While jobs wait for a single row to take their next step, passes are smaller: a row then costs little more, and a
    step takes much less time. `most`: the most rows of this pass, where time is short.
    """
    if not requests:
        return []
    ranked = sorted(requests, key=lambda r: (_rank(r, now), min(r.deadline, r.since + DEFAULT_DUE_SECONDS), r.since))
    urgent = [r for r in ranked if _rank(r, now) == _rank(ranked[0], now)]
    caller = min(dict.fromkeys(r.caller for r in urgent), key=served.had)
    own = dict.fromkeys(r.key for r in urgent if r.caller == caller)
    key = min(own, key=lambda key: served.had_kind(caller, key))
    mine = [r for r in ranked if r.key == key]
    room = _pass_rows([r for r in urgent if r.key == key], limit(key), most)
    if room == 1:
        return [(next(r for r in mine if r.caller == caller), 1)]
    dealt: dict[RowRequest, int] = {}
    overdue_at = Overdue(
        now - min(OVERDUE_PASSES * pass_seconds(key), MAX_OVERDUE_SECONDS), now + 2 * pass_seconds(key)
    )
    row_seconds = pass_seconds(key) / room
    for rank in (0, 1):
        ranked_rows = [r for r in mine if _rank(r, now) == rank]
        for name, rows in _rows_by_caller(ranked_rows, room - sum(dealt.values()), served, row_seconds).items():
            its = [r for r in ranked_rows if r.caller == name]
            dealt = _deal_to_caller(its, sum(dealt.values()) + rows, dealt, overdue_at)
    return list(dealt.items())


def _pass_rows(urgent: Sequence[RowRequest], limit: int, most: int | None) -> int:
    """The rows of the pass: fewer than the limit while jobs wait for their next step, or where time is short."""
    stepping = sum(request.running and request.rows == 1 for request in urgent)
    room = min(limit, max(stepping, ceil(STEPPING_BATCH_SHARE * limit))) if stepping else limit
    return min(room, most or room)


def _rows_by_caller(
    requests: Sequence[RowRequest], room: int, served: SecondsHad, row_seconds: float
) -> dict[str, int]:
    """How many of `room` rows each caller gets: each row goes to the caller that has had the fewest seconds by then."""
    wanted: dict[str, int] = {}
    for request in requests:
        wanted[request.caller] = wanted.get(request.caller, 0) + request.rows
    if len(wanted) < 2:
        return dict.fromkeys(wanted, room)
    weights = {request.caller: request.weight for request in requests}
    turns = [(served.had(name), place, name) for place, name in enumerate(wanted)]
    heapify(turns)
    counts: dict[str, int] = {}
    while room and turns:
        seconds, place, name = turns[0]
        counts[name] = counts.get(name, 0) + 1
        room -= 1
        if counts[name] < wanted[name]:
            heapreplace(turns, (seconds + row_seconds / weights[name], place + len(wanted), name))
        else:
            heappop(turns)
    return counts


def _deal_to_caller(
    requests: Sequence[RowRequest], room: int, dealt: dict[RowRequest, int], overdue_at: Overdue
) -> dict[RowRequest, int]:
    """Deals rows to the running and the new requests of one caller and priority, until `room` rows are out in all."""
    running, new = [r for r in requests if r.running], [r for r in requests if not r.running]
    overdue = [r for r in new if r.since <= overdue_at.asked or r.deadline <= overdue_at.due]
    free = room - sum(dealt.values())
    reserved = min(sum(r.rows for r in overdue), max(1, int(free * NEW_JOBS_SHARE)))
    dealt = _deal_round(running, room - reserved, dealt)
    dealt = _deal_all(overdue, min(room, sum(dealt.values()) + reserved), dealt)
    return _deal_all(running + new, room, dealt)


def _rank(request: RowRequest, now: float) -> int:
    return 0 if request.interactive or now - request.since > BATCH_AGEING_SECONDS else 1


def _deal_all(requests: Sequence[RowRequest], room: int, dealt: dict[RowRequest, int]) -> dict[RowRequest, int]:
    """Deals rows round by round until `room` rows are out or no request has any left."""
    while (more := _deal_round(requests, room, dealt)) != dealt:
        dealt = more
    return dealt


def _deal_round(requests: Sequence[RowRequest], room: int, dealt: dict[RowRequest, int]) -> dict[RowRequest, int]:
    """Deals a row to each job that wants one, until `room` rows are out."""
    wanting: dict[object, RowRequest] = {}
    for request in requests:
        if dealt.get(request, 0) < request.rows:
            wanting.setdefault(request.owner, request)
    chosen = list(wanting.values())[: max(0, room - sum(dealt.values()))]
    return dealt | {request: dealt.get(request, 0) + 1 for request in chosen}
