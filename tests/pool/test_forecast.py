"""What a request has to expect: waits and answers beside others, against what dealing evenly gives."""

import pytest

from gradserve_server.engine.schedule import MAX_PASS_SECONDS
from gradserve_server.engine.take import MAX_OVERDUE_SECONDS, NEW_JOBS_SHARE, OVERDUE_PASSES
from gradserve_server.pool.forecast import Forecast, Load, Prospect, forecast

ROW, ROWS = 0.01, 8  # Seconds of a gradient, and gradients of a full pass.


def prospect(caller: str = "a", *, weight: float = 1.0, interactive: bool = True) -> Prospect:
    return Prospect(caller, weight, interactive, "m", "exact", 1.0)


def load(seconds: float, caller: str = "a", *, interactive: bool = True, begun: bool = False) -> Load:
    return Load(caller, 1.0, interactive, seconds, ROW, ROWS, begun)


def expected(loads: list[Load], own: float = ROW, **facts: object) -> Forecast:
    return forecast(prospect(**facts), own, ROWS, loads)  # type: ignore[arg-type]


def test_alone_there_is_nothing_to_wait_for() -> None:
    assert expected([], 0.5) == Forecast(0, 0.5, 0.5)


def test_beside_few_it_is_in_the_next_pass() -> None:
    found = expected([load(ROW)] * 3)
    assert found.wait == pytest.approx(3 * ROW)
    assert found.end == pytest.approx(4 * ROW), "they end with the pass that runs"


def test_of_a_hundred_requests_of_one_row_all_are_answered_before_it() -> None:
    found = expected([load(ROW)] * 100)
    assert found.wait == pytest.approx(93 * ROW), "the pass that runs ends eight, and the last one has room"
    assert found.end == pytest.approx(101 * ROW)


def test_a_long_job_takes_no_more_from_it_than_it_has_itself() -> None:
    found = expected([load(100.0)], 1.0)
    assert found.wait == pytest.approx(ROWS * ROW)
    assert found.end == pytest.approx(ROWS * ROW + 2.0)


def test_beside_many_long_jobs_it_is_overdue_after_some_passes() -> None:
    begun = expected([load(9.0, begun=True)] * 50)
    assert begun.wait == pytest.approx(ROWS * ROW * (1 + OVERDUE_PASSES))
    new = expected([load(9.0, begun=True)] * 50 + [load(9.0)] * 20)
    assert new.wait == pytest.approx(begun.wait + 20 * ROW / NEW_JOBS_SHARE)
    slow = forecast(prospect(), 1.0, ROWS, [Load("a", 1.0, True, 99.0, 1.0, ROWS, begun=True)] * 50)
    assert slow.wait == pytest.approx(MAX_PASS_SECONDS + MAX_OVERDUE_SECONDS)


def test_another_callers_work_takes_its_share_only() -> None:
    found = expected([load(ROW, "b")] * 100, caller="a")
    assert found.wait == pytest.approx(ROWS * ROW)
    assert found.end == pytest.approx(ROWS * ROW + 2 * ROW)
    assert expected([load(ROW, "b")] * 100, caller="a", weight=4.0).end == pytest.approx(ROWS * ROW + 1.25 * ROW)


def test_the_pass_that_runs_has_rows_of_others_if_it_may() -> None:
    """Of those that the request does not wait for, and then of other callers; only of its own kind of pass."""
    mine, batch, others = [load(ROW)] * 20, [load(ROW, interactive=False)] * 8, [load(ROW, "b")] * 8
    assert expected(mine).end == pytest.approx((20 + 1) * ROW)
    assert expected(mine + batch).end == pytest.approx((8 + 20 + 1) * ROW)
    assert expected(mine + others).end == pytest.approx((8 + 20 + 1) * ROW)
    slow = Load("a", 1.0, True, 1.6, 0.2, 8, begun=True)
    assert expected([*mine, slow]).end == pytest.approx(1.6 + (20 + 1) * ROW)


def test_interactive_requests_wait_for_no_batch_work_but_the_pass_that_runs() -> None:
    batch = [load(9.0, interactive=False)] * 50
    assert expected(batch, 1.0).end == pytest.approx(ROWS * ROW + 1.0)
    assert expected(batch, 1.0, interactive=False).end > 50


def test_the_running_pass_may_be_another_models() -> None:
    slow = Load("b", 1.0, True, 60.0, 0.2, 8, begun=True)
    assert expected([slow]).wait == pytest.approx(1.6)
    assert expected([slow._replace(seconds=0.2)]).wait == pytest.approx(0.2), "or what is left of it"


def test_where_a_pass_has_one_row_jobs_take_turns() -> None:
    jobs = [Load("a", 1.0, True, 60.0, 0.5, 1, begun=True)] * 7
    found = forecast(prospect(), 60.0, 1, jobs)
    assert found.wait == pytest.approx(0.5 + 7 * 0.5 / NEW_JOBS_SHARE)
    assert found.end == pytest.approx(8 * 60)
