"""A job: a method's generator with its deadline and open queries; and what a method may ask of it (Run)."""

from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..models.card import Precision
from .query import Answer, Query, joined
from .take import Key

Priority = Literal["interactive", "batch"]
Asked = Query | Sequence[Query]
MAX_CHUNK_ROWS = 1 << 30


@dataclass(frozen=True, slots=True)
class Progress:
    """Yielded by a long method; goes to the caller, not to the network."""

    step: int
    steps: int
    losses: Mapping[str, Tensor]  # its parts by name, each [] or [n], one for each image
    images: Tensor | None = None  # [n, 3, H, W] in [0, 1]


Steps = Generator[Any, Any, Any]  # yields Query, list of queries or Progress; is sent Answer, list of answers or None


class TimeUp(Exception):
    """Thrown into a method when its time is up and a partial answer is welcome."""


@dataclass(eq=False)
class MethodContext:
    """One method's run within a job: its randomness, how many rows to ask for at once, and how far it came."""

    seed: int = 0
    chunk: int = 32
    allow_partial: bool = False
    room: Callable[[], int] = lambda: MAX_CHUNK_ROWS  # rows that there is time for
    asked: int = 1
    done: int = 0
    unit: str = "steps"  # what is counted
    precision: Precision = "exact"
    warnings: list[str] = field(default_factory=list)

    def noise(self, index: int, like: Tensor, *, uniform: bool = False) -> Tensor:
        """Standard normal (or uniform) numbers for sample `index`: the same whatever the device or the company."""
        seed = int(np.random.SeedSequence([self.seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand if uniform else torch.randn
        return draw(like.shape, generator=generator, dtype=torch.float32).to(like)

    def generator(self, index: int) -> np.random.Generator:
        """Random choices for sample `index`, where `noise` is not enough."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, index]))

    def parts(self, count: int) -> Iterator[range]:
        """0..count-1 in ranges of at most `chunk`, and of what there is time for."""
        self.asked = count
        start = 0
        while start < count:
            stop = min(count, start + max(1, min(self.chunk, self.room())))
            yield range(start, stop)
            start = stop

    def completed(self, part: range) -> None:
        """Says that these samples are in."""
        self.done += len(part)

    def warn_of_time(self) -> None:
        """Says in the answer that it is partial, and how far it came."""
        if self.done < self.asked:
            self.warn(f"TIME_UP: a partial answer, since time ran out after {self.done} of {self.asked} {self.unit}")
        else:
            self.warn(f"TIME_UP: time ran out after all {self.asked} {self.unit}, before their result was measured")

    def warn(self, text: str) -> None:
        """Adds a warning to the answer, once."""
        if text not in self.warnings:
            self.warnings.append(text)


class DeviceCache:
    """Tensors that methods keep on a device from one job to the next; the least recently used are forgotten."""

    def __init__(self, most_bytes: int = 256 << 20) -> None:
        self._most = most_bytes
        self._values: OrderedDict[Hashable, tuple[Tensor, ...]] = OrderedDict()

    def get(self, key: Hashable) -> tuple[Tensor, ...] | None:
        """What is kept there, or None."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Hashable, value: tuple[Tensor, ...]) -> None:
        """Keeps tensors for later jobs."""
        self._values[key] = value
        self._values.move_to_end(key)
        while sum(x.nbytes for kept in self._values.values() for x in kept) > self._most:
            self._values.popitem(last=False)


@dataclass(eq=False)
class OpenQuery:
    """A query with the answers that are in so far; rows are taken and answered in order."""

    job: "Job"
    query: Query
    key: Key
    since: float
    taken: int = 0
    answers: list[Answer] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Rows not yet computed."""
        return len(self.query.images) - self.taken

    def answer(self) -> Answer:
        """All answers, joined."""
        return joined(self.answers)


@dataclass(eq=False)
class Job:
    """A running generator. Times are of the monotonic clock; the deadline is when it must have its last answer."""

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
    alone: bool = False  # every row has a pass of its own, so that the answer's bits are the same in any company
    kept: DeviceCache = field(default_factory=DeviceCache)
    report_every: float = 0.0  # seconds between two of its reports at least
    reported: float = float("-inf")
    steps: Steps | None = None
    open: list[OpenQuery] = field(default_factory=list)
    single: bool = True  # whether it asked for one query or for a list
    hurried: bool = False  # TimeUp was thrown
    started: float | None = None
    rows: int = 0
    compute: float = 0.0

    def run(self, beside: int = 1) -> MethodContext:
        """A fresh run for one of `beside` methods that run side by side and share the rows to ask for at once."""
        return MethodContext(
            self.seed,
            max(1, self.chunk // beside),
            self.allow_partial,
            lambda: self.room() // beside,
            precision=self.precision,
        )


def together(methods: Sequence[Steps]) -> Steps:
    """Runs several methods side by side: asks all their queries at once. Returns their results in order."""
    results: list[Any] = [None] * len(methods)
    waiting: dict[int, tuple[Asked, int]] = {}

    def advance(i: int, resume: Callable[[], Any]) -> None:
        try:
            asked = resume()
        except StopIteration as stop:
            results[i] = stop.value
            waiting.pop(i, None)
        else:
            waiting[i] = (asked, 1 if isinstance(asked, Query) else len(asked))

    try:
        for i, method in enumerate(methods):
            advance(i, lambda method=method: next(method))  # type: ignore[misc]
        while waiting:
            queries = [q for asked, _ in waiting.values() for q in ([asked] if isinstance(asked, Query) else asked)]
            try:
                answers = iter((yield queries))
            except TimeUp as time_up:
                for i in list(waiting):
                    advance(i, lambda i=i, up=time_up: methods[i].throw(up))  # type: ignore[misc]
                continue
            for i, (asked, count) in list(waiting.items()):
                part = [next(answers) for _ in range(count)]
                reply = part[0] if isinstance(asked, Query) else part
                advance(i, lambda i=i, reply=reply: methods[i].send(reply))  # type: ignore[misc]
    finally:
        for method in methods:
            method.close()
    return results
