"""A job: a method's generator with its deadline and open queries; and what a method may ask of it (MethodContext)."""

from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..models.card import Precision
from .query import Answer, ModelRead, Query, join
from .take import Key
from .timeline import Timeline

Priority = Literal["interactive", "batch"]
Request = Query | Sequence[Query]  # What a method yields to get answers.
MAX_CHUNK_ROWS = 1 << 30  # Most rows that a method asks for at once where nothing else limits them.
STABLE_AFTER = 16  # Samples after which it is first looked at whether a map is stable; later numbers are multiples.


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long method has come, which it yields; the engine passes it on to the caller and computes nothing."""

    step: int
    steps: int
    losses: Mapping[str, Tensor]  # Parts of the loss by name; each is [], or [n] with a value for each image.
    images: Tensor | None = None  # [n, 3, H, W] in [0, 1]
    part: int = 0  # Which of the job's results it is about; the rate of reports is bounded for each.
    answer: Callable[[], Any] | None = None  # That result as it stands, if it is to be told; called only for reports.
    final: bool = False  # Whether it is told however soon it follows the last report.


Steps = Generator[Any, Any, Any]  # Yields queries, ModelRead or Progress; is sent answers, what was read, or None.


class TimeUp(Exception):
    """Time is up. Thrown into a method whose caller takes a partial answer; otherwise the error of its job."""


@dataclass(eq=False)
class MethodContext:
    """One method's run within a job: its random numbers, how many rows to ask for at once, and its progress."""

    seed: int = 0
    chunk: int = 32
    allow_partial: bool = False
    room: Callable[[], int] = lambda: MAX_CHUNK_ROWS  # How many rows there is time for.
    asked: int = 1  # How many units the method is to do.
    done: int = 0  # How many units it has done.
    unit: str = "steps"  # The unit, in the plural.
    precision: Precision = "exact"
    until_stable: float | None = None  # The relative standard error at which no more samples are drawn.
    settled: bool = False  # Whether that was reached.
    warnings: list[str] = field(default_factory=list)
    so_far: Callable[[], Any] | None = None  # The result of the samples that are done, from methods that draw some.

    def noise(self, index: int, like: Tensor, *, uniform: bool = False) -> Tensor:
        """Standard normal (or uniform) numbers for sample `index`, the same on every device and in every batch."""
        seed = int(np.random.SeedSequence([self.seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand if uniform else torch.randn
        return draw(like.shape, generator=generator, dtype=torch.float32).to(like)

    def generator(self, index: int) -> np.random.Generator:
        """Random choices for sample `index`, where `noise` is not enough."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, index]))

    def parts(self, count: int) -> Iterator[range]:
        """Splits the samples 0..count-1 into ranges of at most `chunk`, and of no more than there is time for.

        With `until_stable` ranges also end where `stable` looks.
        """
        self.asked = count
        start = 0
        while start < count:
            stop = min(count, start + max(1, min(self.chunk, self.room())))
            if self.until_stable is not None:
                stop = min(stop, next_look(start))
            yield range(start, stop)
            start = stop

    def completed(self, part: range) -> None:
        """Counts these samples as done."""
        self.done += len(part)

    def stable(self, error: Callable[[], float | None]) -> bool:
        """Whether the samples that are done suffice, by the map's relative standard error.

        It is looked at after fixed numbers of samples, so that these do not depend on the sizes of parts.
        """
        if self.until_stable is None or next_look(self.done - 1) != self.done:
            return False
        now = error()
        self.settled = now is not None and now <= self.until_stable
        return self.settled

    def warn_of_time(self) -> None:
        """Warns the caller that time ran out, and how far the method came."""
        if self.done < self.asked:
            self.warn(f"TIME_UP: a partial answer, since time ran out after {self.done} of {self.asked} {self.unit}")
        else:
            self.warn(f"TIME_UP: time ran out after all {self.asked} {self.unit}, before their result was measured")

    def warn(self, text: str) -> None:
        """Adds a warning to the answer, once."""
        if text not in self.warnings:
            self.warnings.append(text)


def next_look(done: int) -> int:
    """The first number above `done` of samples after which it is looked at whether they suffice.

    Every 16 up to 128, then about every quarter: 160, 192, 240, 288, 352 ...
    """
    look = 0
    while look <= done:
        look += STABLE_AFTER * max(1, look // (4 * STABLE_AFTER))
    return look


class DeviceCache:
    """Tensors that methods keep on a device from one job to the next; the least recently used are forgotten."""

    def __init__(self, max_bytes: int = 256 << 20) -> None:
        self._max_bytes = max_bytes
        self._values: OrderedDict[Hashable, tuple[Tensor, ...]] = OrderedDict()

    def get(self, key: Hashable) -> tuple[Tensor, ...] | None:
        """The tensors of that key, or None."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Hashable, value: tuple[Tensor, ...]) -> None:
        """Keeps tensors for later jobs."""
        self._values[key] = value
        self._values.move_to_end(key)
        while sum(x.nbytes for value in self._values.values() for x in value) > self._max_bytes:
            self._values.popitem(last=False)


@dataclass(eq=False)
class OpenQuery:
    """A query that waits for answers, with those that it has so far. Its rows are computed in order."""

    job: "Job"
    query: Query
    key: Key
    since: float  # When it was asked, in seconds of the engine's clock.
    taken: int = 0  # Rows computed so far.
    answers: list[Answer] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Rows not yet computed."""
        return len(self.query.images) - self.taken

    def answer(self) -> Answer:
        """The answers of all its rows as one."""
        return join(self.answers)


@dataclass(eq=False)
class Job:
    """A running generator. Times are of the monotonic clock; by the deadline it must have its last answer."""

    id: str
    model: str
    begin: Callable[["Job"], Steps]
    precision: Precision = "exact"
    priority: Priority = "interactive"
    arrived: float = 0.0
    deadline: float = float("inf")
    allow_partial: bool = False
    seed: int = 0
    chunk: int = 32
    room: Callable[[], int] = lambda: MAX_CHUNK_ROWS
    caller: str = ""  # Who asked; callers have equal shares of the device, but for their weights.
    weight: float = 1.0
    least_cost: float = 0.0  # GFLOP that it takes at least, 0 where that is not known
    alone: bool = False  # Whether each row has a pass of its own, so that other jobs cannot change the answer's bits.
    cache: DeviceCache = field(default_factory=DeviceCache)
    report_every: float = 0.0  # Least seconds between two reports of progress.
    reported: dict[int, float] = field(default_factory=dict)  # Time of the last report of each of its results.
    steps: Steps | None = None
    open: list[OpenQuery] = field(default_factory=list)
    read: ModelRead | None = None  # What it asks for instead of queries.
    single: bool = True  # Whether its method yielded one query rather than a list.
    hurried: bool = False  # Whether TimeUp was thrown into its method.
    started: float | None = None  # Time of its first pass or read of its model.
    rows: int = 0  # Rows computed for it.
    gflop: float = 0.0  # The cost of these rows.
    compute: float = 0.0  # Its share of the seconds of its passes, and those of its reads.
    timeline: Timeline | None = None  # When its passes ran, if that is asked for.

    @property
    def tells_parts(self) -> bool:
        """Whether its caller is told of parts of the answer before all is there."""
        return 0 < self.report_every < float("inf")

    def run(self, beside: int = 1, until_stable: float | None = None) -> MethodContext:
        """The context of one method, where `beside` methods run side by side and share the rows of a query."""
        return MethodContext(
            self.seed,
            max(1, self.chunk // beside),
            self.allow_partial,
            lambda: self.room() // beside,
            precision=self.precision,
            until_stable=until_stable,
        )


def together(methods: Sequence[Steps]) -> Steps:
    """Runs several methods side by side and yields the queries of all at once. Returns their results in order.

    Their progress is passed on before the next queries.
    """
    results: list[Any] = [None] * len(methods)
    reports: list[Progress] = []
    waiting: dict[int, tuple[Request, int]] = {}  # By method: what it asks for, and how many queries that is.

    def advance(i: int, resume: Callable[[], Any]) -> None:
        try:
            request = _next_request(resume, methods[i], reports)
        except StopIteration as stop:
            results[i] = stop.value
            waiting.pop(i, None)
        else:
            waiting[i] = (request, 1 if isinstance(request, Query) else len(request))

    try:
        for i, method in enumerate(methods):
            advance(i, lambda method=method: next(method))  # type: ignore[misc]
        while waiting:
            yield from _drained(reports)
            queries = [q for r, _ in waiting.values() for q in ([r] if isinstance(r, Query) else r)]
            try:
                answers = iter((yield queries))
            except TimeUp as time_up:
                for i in list(waiting):
                    advance(i, lambda i=i, up=time_up: methods[i].throw(up))  # type: ignore[misc]
                continue
            for i, (request, count) in list(waiting.items()):
                part = [next(answers) for _ in range(count)]
                reply = part[0] if isinstance(request, Query) else part
                advance(i, lambda i=i, reply=reply: methods[i].send(reply))  # type: ignore[misc]
        yield from _drained(reports)
    finally:
        for method in methods:
            method.close()
    return results


def _next_request(resume: Callable[[], Any], method: Steps, reports: list[Progress]) -> Request:
    """What a method asks for next; what it reports before that is added to `reports`."""
    request = resume()
    while isinstance(request, Progress):
        reports.append(request)
        request = next(method)
    return request  # type: ignore[no-any-return]


def _drained(reports: list[Progress]) -> Iterator[Progress]:
    """The reports, which are taken from the list."""
    while reports:
        yield reports.pop(0)
