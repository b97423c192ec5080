"""Which rows make the next pass: whose turn it is, how many there is time for, and which jobs come too late."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .costs import rule_cost
from .job import Job, OpenQuery
from .pace import Pace
from .take import Key, RowRequest, take
from .turns import CallerTurns

MAX_PASS_SECONDS = 2.0  # Longest pass of more than one row, in seconds, since new jobs wait until it ends.
FEW_ROWS = 4  # A caller with at most so many rows waiting is answered soon, and others make way for it.
SHORT_PASS_SECONDS = 0.01  # Longest pass over many rows of one caller while another one asks for few.
RECENT_SECONDS = 5.0  # A caller who asked within that time may ask again at any moment.
# When jobs for so many full passes are waiting, those that are late are given up rather than served in small passes.
OVERLOAD_PASSES = 2
HOPELESS_SPEED = 1.25  # A job that would be late even with passes so many times faster is ended.
MIN_ROWS = 2  # Rows of a job before it may be found hopeless.
MIN_SHORT_PASS_SHARE = 0.125  # Smallest short pass, as a share of a full one; less would idle devices with many cores.
DEMAND_DECAY = 0.5  # Factor by which a caller's rows count less with each new job of it.


class Group(NamedTuple):
    """The requests of one caller that are interactive, or those that are not."""

    caller: str
    interactive: bool


class Demand(NamedTuple):
    """When a group last had a new job, and how many of its rows waited at once lately."""

    asked: float
    rows: float = 0.0


class Schedule:
    """The choice of rows for one device. `limit` is the most rows of a key in one pass."""

    def __init__(self, limit: Callable[[Key], int], pace: Pace) -> None:
        self._limit, self._pace = limit, pace
        self._turns = CallerTurns()
        self._seen: dict[Group, Demand] = {}

    def note(self, job: Job, now: float) -> None:
        """Notes that a job's caller has asked."""
        group = Group(job.caller, job.priority == "interactive")
        rows = self._seen[group].rows if group in self._seen else 0.0
        self._seen[group] = Demand(now, DEMAND_DECAY * rows)
        if len(self._seen) > 1:
            self._seen = {each: seen for each, seen in self._seen.items() if now - seen.asked < RECENT_SECONDS}

    def charge(self, batch: Iterable[tuple[OpenQuery, int]], row_seconds: float) -> None:
        """Counts a pass that was run for its callers; a row with the plain gradient took `row_seconds` of it."""
        rows: Counter[tuple[str, float, Key]] = Counter()
        for query, count in batch:
            rows[query.job.caller, query.job.weight, query.key] += count * rule_cost(query.query.rule)
        for (caller, weight, key), count in rows.items():
            self._turns.charge(caller, weight, key, count * row_seconds)

    def charge_read(self, job: Job, seconds: float, now: float) -> None:
        """Counts the seconds of a job's read of its model for its caller, who is taken to have asked just now.

        Passes of others so stay short while a job goes on with reads, between which it waits for no rows.
        """
        self._turns.charge_caller(job.caller, job.weight, seconds)
        group = Group(job.caller, job.priority == "interactive")
        self._seen[group] = self._seen.get(group, Demand(now))._replace(asked=now)

    def by_turn(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs, interactive ones first, and among these those of callers who have had the fewest seconds."""
        return sorted(jobs, key=lambda job: (job.priority != "interactive", self._turns.had(job.caller)))

    def room(self, key: Key, seconds: float) -> int:
        """The most rows of that key in a pass of that many seconds."""
        row_seconds, limit = self._pace.row_seconds(key), self._limit(key)
        return min(limit, max(1, int(seconds / row_seconds))) if row_seconds else limit

    def choose(self, jobs: Iterable[Job], now: float) -> tuple[list[tuple[OpenQuery, int]], set[Job]]:
        """The queries that share the next pass, with their numbers of rows in it; or the jobs to end for lack of time.

        Usually a pass is small enough to end before the nearest deadline of its jobs. Under overload the jobs whose
        deadline a full pass would miss are given up, because small passes would make all the others late too.
        """
        requests, queries = self._requests(jobs)
        batch = self._take(requests, now, None)
        if not batch:
            return [], set()
        key = batch[0][0].key
        most = min(self._room_beside_others(requests, key, now), self.room(key, MAX_PASS_SECONDS))
        rows = min(sum(count for _, count in batch), most)
        ends = now + rows * self._pace.row_seconds(key)
        late = [each for each, _ in batch if each.deadline < ends and not queries[each].job.hurried]
        if late and self._overloaded([request for request in requests if request.key == key], late):
            return [], {queries[request].job for request in late}
        nearest = min(request.deadline for request, _ in batch) - now
        room = min(most, self.room(key, min(MAX_PASS_SECONDS, nearest)))
        if sum(count for _, count in batch) > room:
            # A smaller pass ends before the nearest deadline, and lets new jobs in sooner.
            batch = self._take(requests, now, room)
        return [(queries[request], count) for request, count in batch], set()

    def _overloaded(self, waiting: list[RowRequest], late: list[RowRequest]) -> bool:
        """Whether so many jobs as urgent as the late ones wait for the same key that small passes would harm them."""
        urgent = {request.owner for request in waiting if request.interactive or not late[0].interactive}
        enough = OVERLOAD_PASSES * self._limit(late[0].key)
        return len(urgent) >= enough and len(late) < len(waiting)

    def hopeless(self, job: Job, gflop_per_row: float, now: float) -> bool:
        """Whether a running job that takes no partial answer cannot end in time, by what it must cost at least.

        Some jobs end after their first row, for instance attacks on pictures that are misclassified already.
        """
        if job.allow_partial or job.deadline == float("inf") or job.rows < MIN_ROWS or not gflop_per_row:
            return False
        row_seconds = self._pace.usual_row_seconds(job.open[0].key)
        rows = (job.least_cost - job.gflop) / gflop_per_row
        return now + rows * row_seconds / HOPELESS_SPEED > job.deadline

    def _requests(self, jobs: Iterable[Job]) -> tuple[list[RowRequest], dict[RowRequest, OpenQuery]]:
        requests, queries = [], {}
        for job in jobs:
            interactive, begun = job.priority == "interactive", job.rows > 0
            for query in job.open:
                if query.left:
                    facts = query.key, query.left, begun, interactive, job.deadline, query.since, job
                    request = RowRequest(query, *facts, job.caller, job.weight)
                    requests.append(request)
                    queries[request] = query
        return requests, queries

    def _take(self, requests: list[RowRequest], now: float, most: int | None) -> list[tuple[RowRequest, int]]:
        return take(requests, self._limit, self._turns, now, self._pace.pass_seconds, most)

    def _room_beside_others(self, requests: list[RowRequest], key: Key, now: float) -> int:
        """The most rows of a pass, so that groups which ask for few rows need not wait long.

        While one of them may ask, passes over the many rows of other groups are short.
        """
        waiting: Counter[Group] = Counter()
        for request in requests:
            waiting[Group(request.caller, request.interactive)] += request.rows
        for group, count in waiting.items():
            seen = self._seen.get(group, Demand(now))
            self._seen[group] = seen._replace(rows=max(seen.rows, count))
        light = {
            group
            for group, seen in self._seen.items()
            if group.interactive and seen.rows <= FEW_ROWS and (group in waiting or now - seen.asked < RECENT_SECONDS)
        }
        limit = self._limit(key)
        if not light or waiting.keys() <= light:
            return limit
        own = sum(r.rows for r in requests if r.key == key and Group(r.caller, r.interactive) in light)
        return min(limit, max(own, int(limit * MIN_SHORT_PASS_SHARE), self.room(key, SHORT_PASS_SECONDS)))
