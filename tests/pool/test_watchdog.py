"""What heartbeats say about a worker, by tables."""

import pytest

from gradserve_server.engine.pace import RunningPass
from gradserve_server.pool.heartbeat import PassAge
from gradserve_server.pool.watchdog import CHECK_SECONDS, Finding, WorkerState, away, judge

JUDGEMENTS: list[tuple[str, WorkerState, float, float, float, Finding]] = [
    # what it is, state, seconds of silence, of its pass, of the pass's estimate, finding
    ("idle", "ready", 0.5, 0, 0, "well"),
    ("a heartbeat that is late", "ready", 3.9, 0, 0, "well"),
    ("stopped by a signal", "ready", 4.1, 0, 0, "silent"),
    ("still stopped", "silent", 59, 0, 0, "silent"),
    ("stopped for a minute", "silent", 61, 0, 0, "frozen"),
    ("stopped in a pass", "ready", 4.1, 1e4, 0.1, "silent"),
    ("a legal pass of a minute", "ready", 1, 60, 60, "well"),
    ("the same on a machine slowed tenfold", "ready", 1, 600, 60, "well"),
    ("a first pass of a minute", "ready", 1, 60, 0, "well"),
    ("the same on a machine slowed tenfold", "ready", 1, 600, 0, "well"),
    ("a short pass that suddenly takes a minute", "ready", 1, 60, 0.01, "well"),
    ("a full pass, slowed tenfold", "ready", 1, 20, 2, "well"),
    ("a short pass that does not end", "ready", 1, 121, 0.01, "stuck"),
    ("a full pass that does not end", "ready", 1, 121, 2, "stuck"),
    ("a pass of a minute that does not end", "ready", 1, 1201, 60, "stuck"),
    ("a first pass that does not end", "ready", 1, 901, 0, "stuck"),
    ("loading", "loading", 1, 0, 0, "well"),
    ("loading a large file", "loading", 500, 0, 0, "well"),
    ("stopped while loading", "loading", 601, 0, 0, "frozen"),
    ("dead already", "down", 1e4, 1e4, 0.1, "well"),
]


@pytest.mark.parametrize(
    ("state", "silence", "pass_seconds", "expected", "finding"),
    [row[1:] for row in JUDGEMENTS],
    ids=[row[0] for row in JUDGEMENTS],
)
def test_judgements(state: WorkerState, silence: float, pass_seconds: float, expected: float, finding: Finding) -> None:
    assert judge(state, silence, pass_seconds, expected) == finding


@pytest.mark.parametrize(("late", "seconds"), [(0, 0), (0.9, 0), (1.1, 1.1), (3600, 3600)])
def test_a_look_that_is_late_tells_how_long_the_front_end_was_away(late: float, seconds: float) -> None:
    assert away(100, 100 + CHECK_SECONDS + late) == pytest.approx(seconds)


AGES: list[tuple[str, list[tuple[float, float | None]], list[float]]] = [
    # what happens, the time of each heartbeat with the begin of the pass that runs then, the ages
    ("no pass", [(1, None), (2, None)], [0, 0]),
    ("one long pass", [(1, 0.5), (2, 0.5), (3, 0.5)], [0.5, 1.5, 2.5]),
    ("a pass at each heartbeat", [(1, 0.9), (2, 1.7), (3, 2.8)], [0.1, 0.3, 0.2]),
    ("nothing in between", [(1, 0.5), (2, None), (3, 2.5)], [0.5, 0, 0.5]),
    ("stopped for a minute in a pass", [(1, 0.5), (61, 0.5), (62, 0.5)], [0.5, 2.5, 3.5]),
    ("stopped as a pass began", [(61, 0.5), (62, 0.5)], [2, 3]),
]


@pytest.mark.parametrize(("beats", "ages"), [row[1:] for row in AGES], ids=[row[0] for row in AGES])
def test_the_age_of_a_pass(beats: list[tuple[float, float | None]], ages: list[float]) -> None:
    age = PassAge(0.0)
    seen = [age.at(None if began is None else RunningPass(began, 0.0), now) for now, began in beats]
    assert seen == pytest.approx(ages)
