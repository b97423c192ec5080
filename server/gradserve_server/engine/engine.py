"""The loop of one device: take rows of many jobs, one pass, hand out answers, resume the jobs that have all theirs."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..models.prepared import Prepared
from .batch_limits import default_rows, passes_cost
from .cuda_graphs import Recordings
from .differentiate import differentiate
from .events import Ended, Event, ModelFailed, NotFinite, OutOfMemory, Progressed, Step
from .job import DeviceCache, Job, OpenQuery, Progress, TimeUp
from .objective import NotApplicable
from .pace import Pace
from .query import Answer, Part, Query
from .repeatable import repeatable
from .take import Key, RowRequest, take

log = logging.getLogger(__name__)

CAP_GROWTH = 1.02  # growth of a lowered cap with every pass that fills it
NOT_FINITE = "the model gave infinities or NaN for this image; if it does for all, see its weights, mean and std"
NO_MEMORY = "can't allocate memory"  # what a CPU's allocator says, in a RuntimeError
PARTIAL_PORTIONS = 4  # of the time left, that a wide query fills one when it may answer with less
MAX_PASS_SECONDS = (
    2.0  # seconds that a pass may take while it has more than one row: whoever arrives meanwhile waits for it
)


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
        self.steps: list[Step] = []  # since the owner last cleared it
        self._rows = rows
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._kept = DeviceCache()
        self._recordings = Recordings()
        self._caps: dict[Key, float] = {}  # lowered when memory ran out
        self._pace = Pace()
        self._events: list[Event] = []

    @property
    def idle(self) -> bool:
        """Whether no job is running."""
        return not self._jobs and not self._events

    @property
    def jobs(self) -> int:
        """Number of running jobs."""
        return len(self._jobs)

    def limit(self, key: Key) -> int:
        """The most rows of that key in one pass: of jobs alone always one, which nothing can make smaller."""
        return 1 if key.alone else int(self._caps.get(key.kind, self._full(key)))

    def _full(self, key: Key) -> int:
        model = self.models[key.model]
        if model.card.unbatched:
            return 1
        if self._rows:
            return self._rows
        tuned = model.card.rows.get(key.precision)
        if tuned is None:
            return default_rows(model.device, key.height, key.width, key.precision)
        return max(1, tuned * model.card.height * model.card.width // (key.height * key.width))

    def fitting(self, key: Key, deadline: float) -> int:
        """Rows of that key that fit well into a job's share of the time left, so that it ends with none half-done."""
        seconds = self._pace.row_seconds(key)
        return (
            max(1, int((deadline - self._clock()) / seconds / PARTIAL_PORTIONS / max(1, self.jobs))) if seconds else 1
        )

    def worth_waiting(self) -> float:
        """Seconds to wait for more jobs before the next step: answered callers come back one by one.

        Zero unless all that is open is of one kind; see Pace.
        """
        jobs = self._jobs.values()
        keys = {query.key for job in jobs for query in job.open}
        if len(keys) != 1:
            return 0.0
        (key,) = keys
        return self._pace.worth_waiting(key, jobs, self._room(key, MAX_PASS_SECONDS), self._clock())

    def _room(self, key: Key, seconds: float) -> int:
        """The most rows of that key in a pass of that many seconds."""
        row_seconds = self._pace.row_seconds(key)
        return min(self.limit(key), max(1, int(seconds / row_seconds))) if row_seconds else self.limit(key)

    def submit(self, job: Job) -> None:
        """Starts a job: runs its method up to its first query."""

        def begin(_: Any) -> Any:
            job.steps = job.begin(job)
            return next(job.steps)

        self._jobs[job.id] = job
        job.kept = self._kept
        self._resume(job, begin)

    def cancel(self, job_id: str) -> None:
        """Forgets a job; its rows leave before the next pass. Unknown ids are ignored."""
        job = self._jobs.pop(job_id, None)
        if job is not None and job.steps is not None:
            job.open = []
            job.steps.close()

    def step(self) -> list[Event]:
        """Ends jobs whose time is up, runs one pass, resumes the jobs whose queries are answered."""
        now = self._clock()
        for job in list(self._jobs.values()):
            if now + self._shortest(job) >= job.deadline:
                if now < job.deadline:
                    for query in job.open:
                        self._pace.doubt(query.key)
                self._time_up(job)
        batch = self._take(now)
        if batch:
            self._run(batch)
        events, self._events = self._events, []
        return events

    def _take(self, now: float) -> list[tuple[OpenQuery, int]]:
        claims, by_claim = [], {}
        for job in self._jobs.values():
            for query in job.open:
                if query.left:
                    interactive, begun = job.priority == "interactive", job.rows > 0
                    claim = RowRequest(query, query.key, query.left, begun, interactive, job.deadline, query.since, job)
                    self._pace.join(query.key)
                    claims.append(claim)
                    by_claim[claim] = query
        batch = take(claims, self.limit, self._pace.served, now, self._pace.pass_seconds)
        if batch:
            key = batch[0][0].key
            room = self._room(key, min(MAX_PASS_SECONDS, min(claim.deadline for claim, _ in batch) - now))
            if sum(count for _, count in batch) > room:
                # a smaller pass brings the most urgent answer in time, and whoever comes meanwhile in sooner
                batch = take(claims, self.limit, self._pace.served, now, self._pace.pass_seconds, room)
        return [(by_claim[claim], count) for claim, count in batch]

    def _key(self, job: Job, q: Query) -> Key:
        model, (height, width) = q.model or job.model, q.images.shape[2:]
        return Key(model, job.precision, height, width, q.wrt, id(q) if q.unshared else 0, job.alone)

    def _shortest(self, job: Job) -> float:
        """Seconds that the job's next row will take at least."""
        return max((self._pace.row_seconds(q.key) for q in job.open), default=0.0)

    def _run(self, batch: list[tuple[OpenQuery, int]]) -> None:
        key = batch[0][0].key
        parts = [Part(q.query, range(q.taken, q.taken + count)) for q, count in batch]
        rows = sum(len(part.rows) for part in parts)
        begun = self._clock()
        for query, _ in batch:
            query.job.started = query.job.started or begun
        answers = self._attempted(key, parts)
        if isinstance(answers, OutOfMemory):
            torch.cuda.empty_cache()  # not before: the exception's traceback held the pass's activations
            self.steps.append(Step(key.model, 0, 0.0, retried=True))
            if rows == 1:
                self._end(batch[0][0].job, error=answers)
            self._caps[key.kind] = max(1, rows // 2)
            return
        ended = self._clock()
        seconds = ended - begun
        self._pace.learn(key, len({query.job.id for query, _ in batch}), rows, begun, ended)
        self._widen(key, rows)
        self.steps.append(Step(key.model, rows, seconds, rows * self._gflop(key)))
        for (query, count), answer in zip(batch, answers, strict=True):
            self._deliver(query, count, answer, seconds * count / rows)

    def _widen(self, key: Key, rows: int) -> None:
        """After passes that filled a lowered cap, lets it rise again: what took the memory may be gone."""
        cap = self._caps.get(key.kind)
        if cap is not None and rows >= int(cap):
            self._caps[key.kind] = cap * CAP_GROWTH
            if cap > self._full(key):
                del self._caps[key.kind]

    def _attempted(self, key: Key, parts: list[Part]) -> list[Answer | Exception] | OutOfMemory:
        try:
            return self._attempt(key, parts)
        except OutOfMemory as error:
            return error.with_traceback(None)

    def _attempt(self, key: Key, parts: list[Part]) -> list[Answer | Exception]:
        """Answers or errors. One part cannot harm another: when a pass fails, every part is tried by itself.

        So is a part that came out not finite in company, since a kernel may have let a neighbour's NaN into it.
        """
        model = self.models[key.model].at(key.precision)
        try:
            answers = self._pass(model, parts, key.alone)
            if len(parts) > 1:
                pairs = zip(parts, answers, strict=True)
                answers = [a if a.finite else self._pass(model, [part], key.alone)[0] for part, a in pairs]
            return [answer if answer.finite else NotFinite(NOT_FINITE) for answer in answers]
        except torch.AcceleratorError as error:
            if not isinstance(error, torch.OutOfMemoryError):
                raise  # the device is lost to this process: let it end and be started again
            raise OutOfMemory(str(error)) from None
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) or NO_MEMORY in str(error):
                raise OutOfMemory(str(error)) from None
            if len(parts) > 1:
                return [answer for part in parts for answer in self._attempt(key, [part])]
            if isinstance(error, NotApplicable):
                return [error]
            text = f"{key.model} failed on a {key.height}x{key.width} input: {error}"
            log.warning("%s", text, exc_info=error)
            return [ModelFailed(text)]

    def _pass(self, model: Prepared, parts: list[Part], alone: bool) -> list[Answer]:
        """One pass, recorded on a GPU where that is possible and no job asked for the same bits every time."""
        on_gpu = model.device.type == "cuda"
        if alone:
            with repeatable(model.device):
                answers = differentiate(model, parts)
        else:
            answers = (self._recordings.answers(model, parts) if on_gpu else None) or differentiate(model, parts)
        if on_gpu:
            torch.cuda.synchronize(model.device)  # or the clock would time the launches alone
        return answers

    def _gflop(self, key: Key) -> float:
        card = self.models[key.model].card
        return passes_cost(card.gflop, key.wrt) * key.height * key.width / (card.height * card.width)

    def _deliver(self, query: OpenQuery, count: int, answer: Answer | Exception, seconds: float) -> None:
        job = query.job
        if job.id not in self._jobs:  # an earlier part of this batch ended it
            return
        if isinstance(answer, NotFinite):
            self._resume(job, lambda steps: steps.throw(answer))  # it may have an earlier answer to give
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

            def told(steps: Any) -> Any:  # called where running out of memory ends this job alone
                answers = [q.answer() for q in answered]
                return steps.send(answers[0] if single else answers)

            self._resume(job, told)

    def _time_up(self, job: Job) -> None:
        if not job.allow_partial or job.hurried:
            self._end(job, error=TimeUp())
            return
        job.hurried = True
        self._resume(job, lambda steps: steps.throw(TimeUp()))

    def _resume(self, job: Job, advance: Callable[[Any], Any]) -> None:
        """Lets the generator run to its next query; an exception in it ends this job alone."""
        job.open = []
        try:
            asked = advance(job.steps)
            while isinstance(asked, Progress):
                self._report(job, asked)
                asked = next(job.steps)  # type: ignore[arg-type]
            job.single = isinstance(asked, Query)
            job.open = self._opened(job, [asked] if isinstance(asked, Query) else list(asked))
        except StopIteration as stop:
            self._end(job, result=stop.value)
        except Exception as error:
            self._end(job, error=error)

    def _report(self, job: Job, progress: Progress) -> None:
        now = self._clock()
        if now - job.reported >= job.report_every:
            job.reported = now
            self._events.append(Progressed(job, progress))

    def _opened(self, job: Job, queries: list[Query]) -> list[OpenQuery]:
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
