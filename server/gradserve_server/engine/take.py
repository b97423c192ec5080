"""Which rows go into the next pass: one pure function and the whole policy."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import NamedTuple

from ..models.card import Precision

NEW_JOBS_SHARE = 4  # one row in so many is reserved for new jobs that are overdue
OVERDUE_PASSES = 12  # passes after which a job that waits for its first row is overdue
MAX_OVERDUE_SECONDS = 5.0  # upper bound of that wait, where passes are slow
STEPPING_BATCH_SHARE = 0.6  # batch cap, as a share of the limit, while iterative jobs wait for their next step
DEFAULT_DUE_SECONDS = 30.0  # a request for rows that has no deadline is due after so long
BATCH_AGEING_SECONDS = 5.0  # a batch job's query that has waited so long counts as interactive


class Key(NamedTuple):
    """What rows must agree in to share a pass: `wrt` is what they differentiate by, `unshared` a query's own number.

    `alone`: their jobs asked for passes alone, so that each row has a pass of its own.
    """

    model: str
    precision: Precision
    height: int
    width: int
    wrt: str
    unshared: int = 0
    alone: bool = False

    @property
    def kind(self) -> "Key":
        """The key without the query's own number, for what is learnt from passes."""
        return self._replace(unshared=0) if self.unshared else self


class RowRequest(NamedTuple):
    """Rows that one query waits for: `since` is when it was asked, `running` whether its job has had a row before."""

    query: object
    key: Key
    rows: int
    running: bool
    interactive: bool
    deadline: float
    since: float
    job: object = None  # whose it is; None: a job of its own

    @property
    def owner(self) -> object:
        """The job, among which rows are dealt evenly."""
        return self.query if self.job is None else self.job


class Overdue(NamedTuple):
    """New claims are late that were asked before, or are due by then."""

    asked: float
    due: float


def take(
    claims: Sequence[RowRequest],
    limit: Callable[[Key], int],
    served: Mapping[Key, float],
    now: float,
    pass_seconds: Callable[[Key], float],
    most: int | None = None,
) -> list[tuple[RowRequest, int]]:
    """The claims of the next pass with the number of rows that each gets.

    All have one key: of the keys that the most urgent priority asks for, the one that was served least (in seconds, so
    that cheap passes do not wait in line with dear ones). Batch work gets what interactive work leaves. Running jobs
    come first with a row each, or those of many steps would never end; but a quarter of the rows, at least one, goes to
    new ones that have waited for OVERDUE_PASSES. What is left is dealt to all jobs one by one, so that a wide one does
    not push out a narrow one, by deadline, or else by age. While jobs wait for a single row to take their next step,
    passes are smaller: rows get little dearer by that, and steps much quicker. `most`: rows, in a hurry.
    """
    if not claims:
        return []
    ranked = sorted(claims, key=lambda c: (_rank(c, now), min(c.deadline, c.since + DEFAULT_DUE_SECONDS), c.since))
    urgent = [c for c in ranked if _rank(c, now) == _rank(ranked[0], now)]
    key = min(dict.fromkeys(c.key for c in urgent), key=lambda k: served.get(k.kind, -1))
    mine = [c for c in ranked if c.key == key]
    stepping = sum(c.running and c.rows == 1 for c in urgent if c.key == key)
    room = limit(key)
    if stepping:
        room = min(room, max(stepping, ceil(STEPPING_BATCH_SHARE * room)))
    room = min(room, most or room)
    if room == 1:
        return [(mine[0], 1)]
    dealt: dict[RowRequest, int] = {}
    late = Overdue(now - min(OVERDUE_PASSES * pass_seconds(key), MAX_OVERDUE_SECONDS), now + 2 * pass_seconds(key))
    for rank in (0, 1):
        dealt = _share([c for c in mine if _rank(c, now) == rank], room, dealt, late)
    return list(dealt.items())


def _share(
    claims: Sequence[RowRequest], room: int, dealt: dict[RowRequest, int], late: Overdue
) -> dict[RowRequest, int]:
    """Deals what is left of `room` to running and new claims of one priority."""
    running, new = [c for c in claims if c.running], [c for c in claims if not c.running]
    overdue = [c for c in new if c.since <= late.asked or c.deadline <= late.due]
    free = room - sum(dealt.values())
    reserved = min(sum(c.rows for c in overdue), max(1, free // NEW_JOBS_SHARE))
    dealt = _round(running, room - reserved, dealt)
    dealt = _deal(overdue, min(room, sum(dealt.values()) + reserved), dealt)
    return _deal(running + new, room, dealt)


def _rank(claim: RowRequest, now: float) -> int:
    return 0 if claim.interactive or now - claim.since > BATCH_AGEING_SECONDS else 1


def _deal(claims: Sequence[RowRequest], room: int, dealt: dict[RowRequest, int]) -> dict[RowRequest, int]:
    """Deals rows round by round until `room` rows are out or no claim has any left."""
    while (more := _round(claims, room, dealt)) != dealt:
        dealt = more
    return dealt


def _round(claims: Sequence[RowRequest], room: int, dealt: dict[RowRequest, int]) -> dict[RowRequest, int]:
    """Deals a row to each job that wants one, until `room` rows are out."""
    hungry: dict[object, RowRequest] = {}
    for claim in claims:
        if dealt.get(claim, 0) < claim.rows:
            hungry.setdefault(claim.owner, claim)
    chosen = list(hungry.values())[: max(0, room - sum(dealt.values()))]
    return dealt | {claim: dealt.get(claim, 0) + 1 for claim in chosen}
