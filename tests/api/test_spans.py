"""The spans of a request as they are noted, before anything is sent."""

import time
from collections.abc import Iterator

import pytest

from gradserve_server.api.telemetry.spans import RequestSpan, TaskSpans, open_span, span
from gradserve_server.engine.timeline import TimedPass, Timeline
from gradserve_server.pool.wire import Outcome, Task

TASK = Task("a", "predict", "m", None)  # type: ignore[arg-type]
NOW = time.monotonic()


@pytest.fixture
def root() -> Iterator[RequestSpan]:
    """A request that is traced and came ten seconds ago."""
    root = RequestSpan("root", NOW - 10, 0.0)
    token = open_span.set(root)
    yield root
    open_span.reset(token)


def after(timeline: Timeline | None) -> None:
    with TaskSpans(TASK) as spans:
        assert spans.task.timed
        spans.outcome = Outcome("a", timeline=timeline)


def test_a_request_that_is_not_traced_notes_nothing_and_asks_for_nothing() -> None:
    with span("decode"), TaskSpans(TASK) as spans:
        assert spans.task is TASK
        assert open_span.get() is None


def test_each_part_begins_where_the_last_one_ended(root: RequestSpan) -> None:
    with span("outer"):
        with span("inner"):
            pass
        with span("another"):
            pass
    with pytest.raises(ValueError, match="no"), span("failed"):
        raise ValueError("no")
    outer, failed = root.parts
    inner, another = outer.parts
    assert (outer.begun, inner.begun) == (root.begun, root.begun)
    assert another.begun == inner.ended
    assert failed.begun == outer.ended <= failed.ended <= time.monotonic()
    assert open_span.get() is root


def test_a_task_is_its_queue_and_its_run(root: RequestSpan) -> None:
    timed = TimedPass(NOW - 3, 1.0, 2, 5, "m", "fast")
    after(Timeline(NOW - 3, NOW, [timed, timed._replace(begun=NOW - 1, seconds=0.5)], untimed=4))
    queue, run = root.parts
    assert (queue.name, queue.begun, queue.ended) == ("queue", NOW - 10, NOW - 3)
    assert (run.name, run.begun, run.attributes) == ("run", NOW - 3, {"gradserve.passes": 6})
    assert [(each.begun, each.ended) for each in run.parts] == [(NOW - 3, NOW - 2), (NOW - 1, NOW - 0.5)]
    assert run.parts[0].attributes == {
        "gradserve.rows": 2,
        "gradserve.other_rows": 5,
        "gradserve.model": "m",
        "gradserve.precision": "fast",
    }


def test_times_of_another_clock_stay_within_the_task(root: RequestSpan) -> None:
    passes = [TimedPass(NOW - 12, 1.0, 1, 0, "m", "exact"), TimedPass(NOW + 1e6, 1.0, 1, 0, "m", "exact")]
    after(Timeline(NOW - 12, NOW + 1e6 + 1, passes))
    queue, run = root.parts
    assert queue.begun == queue.ended == run.begun == NOW - 10
    assert [each.begun for each in run.parts] == [NOW - 10, run.ended]


def test_a_task_without_a_pass_or_without_a_word(root: RequestSpan) -> None:
    after(Timeline())
    after(None)
    with pytest.raises(ValueError, match="gone"), TaskSpans(TASK):
        raise ValueError("gone")
    assert [part.name for part in root.parts] == ["queue", "task", "task"]
