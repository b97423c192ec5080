"""The spans of a request that is traced, as the servicer notes them; `tracing` sends them when the request has ended.

Their times are of this process's monotonic clock. Each begins where the one before it ended, so that they add up. For a
request that is not traced no span is open, and nothing is noted.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from ...engine.timeline import TimedPass, Timeline
from ...pool.wire import Outcome, Task


@dataclass(slots=True)
class RequestSpan:
    """A part of a request's time, and the parts of that."""

    name: str
    begun: float
    ended: float
    attributes: dict[str, str | int] = field(default_factory=dict)
    parts: list["RequestSpan"] = field(default_factory=list)

    @property
    def next_begun(self) -> float:
        """When its next part begins."""
        return self.parts[-1].ended if self.parts else self.begun


UNTRACED = nullcontext()
open_span: ContextVar[RequestSpan | None] = ContextVar("open_span", default=None)


def span(name: str) -> AbstractContextManager[None]:
    """Notes a part of the span that is open, which ends with the `with`."""
    outer = open_span.get()
    return UNTRACED if outer is None else _part(outer, name)


@contextmanager
def _part(outer: RequestSpan, name: str) -> Iterator[None]:
    own = RequestSpan(name, outer.next_begun, 0.0)
    outer.parts.append(own)
    token = open_span.set(own)
    try:
        yield
    finally:
        open_span.reset(token)
        own.ended = time.monotonic()


class TaskSpans:
    """Notes what becomes of a task inside its `with`: `queue` until its first pass, and `run` until its outcome.

    A task without a timeline from its worker, since it was cancelled or its time was up, gets one span `task` instead.
    """

    def __init__(self, task: Task) -> None:
        """`self.task` is the task to run; `self.outcome` is to be set to its outcome."""
        self._outer = open_span.get()
        self.task = task if self._outer is None else replace(task, timed=True)
        self.outcome: Outcome | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._outer is not None:
            timeline = None if self.outcome is None else self.outcome.timeline
            self._outer.parts.extend(_task_spans(self._outer.next_begun, time.monotonic(), timeline))


def _task_spans(begun: float, ended: float, timeline: Timeline | None) -> list[RequestSpan]:
    if timeline is None:
        return [RequestSpan("task", begun, ended)]
    if timeline.started is None:
        return [RequestSpan("queue", begun, ended)]
    started = min(max(begun, timeline.started), ended)
    run = RequestSpan("run", started, ended, {"gradserve.passes": len(timeline.passes) + timeline.untimed})
    run.parts = [_pass_span(each, started, ended) for each in timeline.passes]
    return [RequestSpan("queue", begun, started), run]


def _pass_span(timed: TimedPass, started: float, ended: float) -> RequestSpan:
    """A pass as a part of a run, cut to its time from `started` to `ended`: clocks of hosts differ by milliseconds."""
    attributes: dict[str, str | int] = {
        "gradserve.rows": timed.rows,
        "gradserve.other_rows": timed.other_rows,
        "gradserve.model": timed.model,
        "gradserve.precision": timed.precision,
    }
    begun, end = (min(max(started, each), ended) for each in (timed.begun, timed.begun + timed.seconds))
    return RequestSpan("pass", begun, end, attributes)
