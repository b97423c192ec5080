"""The loop of one device: chooses rows of many jobs, runs them in one pass, and resumes the jobs that it answers."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..models.out_of_memory import is_out_of_memory
from ..models.prepared import Prepared
from .batch_limits import BatchLimits
from .costs import passes_cost, rule_cost
from .events import Ended, Event, NotFinite, OutOfMemory, PassStats, Progressed
from .job import DeviceCache, Job, OpenQuery, Progress, TimeUp
from .objective import NotApplicable
from .pace import Pace
from .passes import PassRunner
from .query import Answer, ModelRead, Part, Query
from .schedule import MAX_PASS_SECONDS, SHORT_PASS_SECONDS, Schedule
from .take import Key
from .timeline import TimedPass

PARTIAL_QUERY_SHARE = 0.25  # Share of the time left that one query of a job that takes partial answers may fill.


class Engine:
    """Jobs join with `submit` and leave at every step; `step` returns what happened."""

    def __init__(
        self,
        models: Mapping[str, Prepared],
        *,
        rows: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rows` overrides the rows per pass for every model and size."""
        self.models = models
        self.passes: list[PassStats] = []  # Passes that were run since the owner last cleared the list.
        self.cancelled_rows = 0  # Rows computed for jobs that were cancelled.
        self.read_seconds = 0.0  # Seconds that jobs have read their models since the owner last cleared it.
        self.on_pass: Callable[[float], None] = lambda expected: None  # Gets a pass's estimated seconds at its begin.
        self._limits = BatchLimits(models, rows)
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._cache = DeviceCache()
        self._pace = Pace()
        self._runner = PassRunner(models, lambda key, rows: self.on_pass(self._pace.expected(key, rows)))
        self._schedule = Schedule(self.limit, self._pace)
        self._events: list[Event] = []

    @property
    def idle(self) -> bool:
        """Whether no job is running."""
        return not self._jobs and not self._events

    @property
    def jobs(self) -> int:
        """Number of running jobs."""
        return len(self._jobs)

    def progress(self) -> dict[str, float]:
        """GFLOP done for each running job that has had a pass."""
        return {job.id: job.gflop for job in self._jobs.values() if job.gflop}

    def limit(self, key: Key) -> int:
        """The most rows of that key in one pass."""
        return self._limits.limit(key)

    def fitting(self, key: Key, deadline: float) -> int:
        """How many rows of that key one query of a job should have, to be answered well before the job's deadline."""
        row_seconds = self._pace.row_seconds(key)
        if not row_seconds:
            return 1
        return max(1, int((deadline - self._clock()) / row_seconds * PARTIAL_QUERY_SHARE / max(1, self.jobs)))

    def worth_waiting(self) -> float:
        """Seconds to wait for more jobs before the next step, since callers come back one by one once answered.

        Zero unless all open queries have one key and no job reads its model; see `Pace.worth_waiting`.
        """
        jobs = self._jobs.values()
        keys = {query.key for job in jobs for query in job.open}
        if len(keys) != 1 or any(job.read is not None for job in jobs):
            return 0.0
        (key,) = keys
        return self._pace.worth_waiting(key, jobs, self._schedule.room(key, MAX_PASS_SECONDS), self._clock())

    def submit(self, job: Job) -> None:
        """Starts a job: runs its method up to its first query."""

        def start(_: Any) -> Any:
            job.steps = job.begin(job)
            return next(job.steps)

        self._jobs[job.id] = job
        self._schedule.note(job, self._clock())
        job.cache = self._cache
        self._resume(job, start)

    def cancel(self, job_id: str) -> None:
        """Forgets a job; its rows leave before the next pass. Unknown ids are ignored."""
        job = self._jobs.pop(job_id, None)
        if job is not None:
            self.cancelled_rows += job.rows
        if job is not None and job.steps is not None:
            job.open = []
            job.steps.close()

    def step(self) -> list[Event]:
        """Ends jobs whose time is up, runs one pass and some reads, resumes the jobs that are answered."""
        now = self._clock()
        for job in list(self._jobs.values()):
            if now + self._next_row_seconds(job) >= job.deadline:
                if now < job.deadline:
                    for query in job.open:
                        self._pace.doubt(query.key)
                self._end_for_time(job)
            elif job.open and job.least_cost and self._schedule.hopeless(job, self._gflop(job.open[0].key), now):
                self._pace.doubt(job.open[0].key)
                self._end(job, error=TimeUp())
        if batch := self._choose_batch(now):
            self._run_batch(batch)
        self._run_reads()
        events, self._events = self._events, []
        return events

    def _choose_batch(self, now: float) -> list[tuple[OpenQuery, int]]:
        """The queries that share the next pass, with the number of rows that each computes in it."""
        while True:
            batch, late = self._schedule.choose(self._jobs.values(), now)
            if not late:
                return batch
            for job in late:
                self._end_for_time(job)

    def _key(self, job: Job, q: Query) -> Key:
        model, (height, width) = q.model or job.model, q.images.shape[2:]
        return Key(model, job.precision, height, width, q.wrt, id(q) if q.unshared else 0, job.alone, q.permuted)

    def _next_row_seconds(self, job: Job) -> float:
        """The least time in which the job's open queries can each have a row more, in seconds."""
        return max((self._pace.row_seconds(q.key) * rule_cost(q.query.rule) for q in job.open), default=0.0)

    def _run_batch(self, batch: list[tuple[OpenQuery, int]]) -> None:
        key = batch[0][0].key
        parts = [Part(q.query, range(q.taken, q.taken + count)) for q, count in batch]
        rows = sum(len(part.rows) for part in parts)
        self._runner.try_rules(key, parts)
        begun = self._clock()
        for query, _ in batch:
            query.job.started = query.job.started or begun
        answers = self._runner.try_pass(key, parts)
        if isinstance(answers, OutOfMemory):
            torch.cuda.empty_cache()  # Only now can it: the exception's traceback held the pass's activations.
            self.passes.append(PassStats(key.model, 0, 0.0, retried=True))
            if rows == 1:
                self._end(batch[0][0].job, error=answers)
            self._limits.lower(key, rows // 2)
            return
        seconds = self._clock() - begun
        cost = sum(part.cost for part in parts)  # In rows with the plain gradient, of which Pace has the time.
        self._pace.learn(key, len({query.job.id for query, _ in batch}), cost, begun, begun + seconds)
        self._limits.grow(key, rows)
        self._schedule.charge(batch, seconds / cost)
        gflop = self._gflop(key)
        self.passes.append(PassStats(key.model, rows, seconds, cost * gflop, precision=key.precision))
        _note_pass(batch, rows, begun, seconds)
        for (query, count), part, answer in zip(batch, parts, answers, strict=True):
            query.job.gflop += part.cost * gflop
            self._deliver(query, count, answer, seconds * part.cost / cost)

    def _gflop(self, key: Key) -> float:
        card = self.models[key.model].card
        return passes_cost(card.gflop, key.wrt) * key.height * key.width / (card.height * card.width)

    def _deliver(self, query: OpenQuery, count: int, answer: Answer | Exception, seconds: float) -> None:
        job = query.job
        if job.id not in self._jobs:  # An earlier part of this batch has ended the job.
            return
        if isinstance(answer, NotFinite):
            self._resume(job, lambda steps: steps.throw(answer))  # The method may return an earlier result.
            return
        if isinstance(answer, Exception):
            self._end(job, error=answer)
            return
        query.taken += count
        query.answers.append(answer)
        job.rows += count
        job.compute += seconds
        if not any(q.left for q in job.open):
            answered, single = job.open, job.single

            def send_answers(steps: Any) -> Any:  # Joining them may run out of memory, which then ends this job alone.
                answers = [q.answer() for q in answered]
                return steps.send(answers[0] if single else answers)

            self._resume(job, send_answers)

    def _end_for_time(self, job: Job) -> None:
        """Ends a job whose time is up, or lets its method return a partial answer if the caller takes one."""
        if not job.allow_partial or job.hurried:
            self._end(job, error=TimeUp())
            return
        job.hurried = True
        self._resume(job, lambda steps: steps.throw(TimeUp()))

    def _resume(self, job: Job, advance: Callable[[Any], Any]) -> None:
        """Lets the generator run to its next query or read; an exception in it ends this job alone."""
        job.open, job.read = [], None
        try:
            request = advance(job.steps)
            while isinstance(request, Progress):
                self._report(job, request)
                request = next(job.steps)  # type: ignore[arg-type]
            if isinstance(request, ModelRead):
                job.read = request
                return
            job.single = isinstance(request, Query)
            job.open = self._open(job, [request] if isinstance(request, Query) else list(request))
        except StopIteration as stop:
            self._end(job, result=stop.value)
        except Exception as error:
            self._end(job, error=_kind_of(error))

    def _run_reads(self) -> None:
        """Gives jobs what they read of their models, one read each, until that has taken as long as a short pass."""
        begun = self._clock()
        for job in self._schedule.by_turn(job for job in self._jobs.values() if job.read is not None):
            self._read(job)
            if self._clock() - begun >= SHORT_PASS_SECONDS:
                break

    def _read(self, job: Job) -> None:
        assert job.read is not None, "only such jobs have their turn"
        begun = self._clock()
        job.started = job.started or begun
        self.on_pass(0.0)  # How long it takes is not known.
        found, fault = None, None
        try:
            found = job.read.read(self.models[job.model])
        except Exception as error:
            fault = _kind_of(error)
        now = self._clock()
        seconds = now - begun
        job.compute += seconds
        self.read_seconds += seconds
        self._schedule.charge_read(job, seconds, now)
        if fault is not None:
            self._end(job, error=fault)
        else:
            self._resume(job, lambda steps: steps.send(found))

    def _report(self, job: Job, progress: Progress) -> None:
        now = self._clock()
        if progress.final or now - job.reported.get(progress.part, float("-inf")) >= job.report_every:
            job.reported[progress.part] = now
            answer = None if progress.answer is None else progress.answer()
            self._events.append(Progressed(job, progress, answer))

    def _open(self, job: Job, queries: list[Query]) -> list[OpenQuery]:
        """The queries with their keys. Raises NotApplicable for a model that is not loaded in the job's precision."""
        if not queries or not all(len(query.images) for query in queries):
            raise ValueError("a method asked for no rows")
        if unknown := [query.model for query in queries if query.model and query.model not in self.models]:
            raise NotApplicable(f"there is no model {unknown[0]!r} here; name another")
        for name in {query.model for query in queries if query.model}:
            try:
                self.models[name].at(job.precision)
            except KeyError:
                reason = self.models[name].card.absent.get(job.precision, "")
                because = f": {reason}" if reason else ""
                raise NotApplicable(
                    f"{name} is not loaded in {job.precision.upper()}{because}; name another precision or model"
                ) from None
        now = self._clock()
        return [OpenQuery(job, query, self._key(job, query), now) for query in queries]

    def _end(self, job: Job, result: Any = None, error: Exception | None = None) -> None:
        self._jobs.pop(job.id, None)
        job.open = []
        if job.steps is not None:
            job.steps.close()
        self._events.append(Ended(job, result, error))


def _kind_of(error: Exception) -> Exception:
    """An exception of a method or a model, by the name that callers are told."""
    return OutOfMemory(str(error)) if is_out_of_memory(error) else error


def _note_pass(batch: list[tuple[OpenQuery, int]], rows: int, begun: float, seconds: float) -> None:
    """Adds a pass of so many rows to the timelines of its jobs that have one."""
    timed = dict[Job, int]()  # Their rows.
    for query, count in batch:
        if query.job.timeline is not None:
            timed[query.job] = timed.get(query.job, 0) + count
    for job, own in timed.items():
        assert job.timeline is not None, "only such jobs are among them"
        key = batch[0][0].key
        job.timeline.add(TimedPass(begun, seconds, own, rows - own, key.model, key.precision))
