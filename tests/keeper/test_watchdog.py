"""What silence and the age of a pass say about a worker, by tables."""

import pytest

from gradserve_server.keeper.watchdog import CHECK_SECONDS, Finding, WorkerState, judge, passed

JUDGEMENTS: list[tuple[str, WorkerState, float, bool, float, float, Finding]] = [
    # The case, the state, seconds since the worker was lost, whether it is stopped, seconds of its pass and of the
    # pass's estimate, and the finding.
    ("idle", "ready", 0, False, 0, 0, "well"),
    ("stopped by a signal", "lost", 5, True, 0, 0, "well"),
    ("stopped for a minute", "lost", 61, True, 0, 0, "frozen"),
    ("not heard for an hour, and running", "lost", 3600, False, 0, 0, "well"),
    ("not heard, and its pass does not end", "lost", 3600, False, 901, 0, "stuck"),
    ("a legal pass of a minute", "ready", 0, False, 60, 60, "well"),
    ("the same on a machine slowed tenfold", "ready", 0, False, 600, 60, "well"),
    ("a first pass of a minute", "ready", 0, False, 60, 0, "well"),
    ("the same on a machine slowed tenfold", "ready", 0, False, 600, 0, "well"),
    ("a short pass that suddenly takes a minute", "ready", 0, False, 60, 0.01, "well"),
    ("a full pass, slowed tenfold", "ready", 0, False, 20, 2, "well"),
    ("a short pass that does not end", "ready", 0, False, 121, 0.01, "stuck"),
    ("a full pass that does not end", "ready", 0, False, 121, 2, "stuck"),
    ("a pass of a minute that does not end", "ready", 0, False, 1201, 60, "stuck"),
    ("a first pass that does not end", "ready", 0, False, 901, 0, "stuck"),
    ("loading", "loading", 0, False, 0, 0, "well"),
    ("stopped while loading", "loading", 500, True, 0, 0, "well"),
    ("stopped while loading for long", "loading", 601, True, 0, 0, "frozen"),
    ("dead already", "down", 1e4, True, 1e4, 0.1, "well"),
]


@pytest.mark.parametrize(
    ("state", "lost", "stopped", "pass_seconds", "expected", "finding"),
    [row[1:] for row in JUDGEMENTS],
    ids=[row[0] for row in JUDGEMENTS],
)
def test_judgements(
    state: WorkerState, lost: float, stopped: bool, pass_seconds: float, expected: float, finding: Finding
) -> None:
    assert judge(state, lost, stopped, pass_seconds, expected) == finding


@pytest.mark.parametrize(("now", "seconds"), [(100.5, 0.5), (100.9, 0.9), (101.5, 1.0), (3700, 1.0)])
def test_a_time_in_which_the_keeper_did_not_run_says_nothing(now: float, seconds: float) -> None:
    assert passed(100, now) == pytest.approx(seconds)
    assert passed(100, 3700) == 2 * CHECK_SECONDS
