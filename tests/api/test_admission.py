"""Admission by counters and by the expected wait, with workers that are told what is outstanding."""

import random
import time
from collections.abc import Iterable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gradserve_server.api.admission import admission as module
from gradserve_server.api.admission.admission import SAFETY_FACTOR, SHARE_CHECK_SECONDS, SPARE_FACTOR, Admission
from gradserve_server.api.admission.callers import Caller
from gradserve_server.api.errors import PARTIAL_ANSWERS, Full, RequestError, failure
from gradserve_server.config import LimitSettings
from gradserve_server.methods.explain import METHODS, Call, ExplainArguments, Target
from gradserve_server.metrics import Metrics
from gradserve_server.models.card import ModelCard
from gradserve_server.models.served import ServedModels
from gradserve_server.pool.forecast import Prospect
from gradserve_server.pool.members import Member
from gradserve_server.pool.wire import Failure, Ready, Task

A, B = Caller("a"), Caller("b")
CARD: ModelCard = SimpleNamespace(name="m", gflop=0.01, auto={})  # type: ignore[assignment]
SPEED = 1.0  # GFLOP per second
PICTURE = np.zeros((1, 1, 3), np.uint8)
FOR_EVER = float("inf")


def task(seconds: float = 0.03, *, left: float = FOR_EVER, **facts: Any) -> Task:
    """A task that takes so many seconds alone and has so many left."""
    facts = {"caller": "a", "least_cost": seconds * SPEED, "arguments": ExplainArguments(())} | facts
    return Task("", "explain", "m", PICTURE, cost=seconds * SPEED, deadline=time.monotonic() + left, **facts)


def admission(
    outstanding: Iterable[Task] = (), queue_seconds: float | None = None, *, measured: bool = True, **limits: Any
) -> Admission:
    """Before one worker with those tasks."""
    speeds = {("m", "exact"): SPEED} if measured else {}
    member = Member(Ready((CARD,), "cpu", speeds, {("m", "exact"): 8}), lambda message: None)
    member.pending = {str(i): SimpleNamespace(task=each) for i, each in enumerate(outstanding)}  # type: ignore[misc]
    cards = ServedModels([CARD], default="m")
    pool: Any = SimpleNamespace(cards=cards, members=[member], outstanding=member.cost, queue_seconds=queue_seconds)
    return Admission(pool, LimitSettings(**limits), Metrics())


def refusal(admission: Admission, asked: Task) -> Full:
    with pytest.raises(Full) as caught:
        admission.check(asked)
    assert caught.value.code.name == "RESOURCE_EXHAUSTED"
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 0
    return caught.value


def test_places_are_counted_in_and_out_by_caller_and_in_all() -> None:
    gate = admission(max_in_flight=4, caller_share=0.5)
    with ExitStack() as inside:
        for caller in (A, A, B):
            inside.enter_context(gate.slot(caller, "explain", None))
        with pytest.raises(Full) as caught:
            inside.enter_context(gate.slot(A, "explain", None))
        assert caught.value.refused == "caller"
        inside.enter_context(gate.slot(B, "explain", 9.0))
        with pytest.raises(Full) as caught:
            inside.enter_context(gate.slot(Caller("c"), "explain", None))
        assert caught.value.refused == "in_flight"
    with gate.slot(A, "explain", None), gate.slot(A, "explain", None):
        pass


def test_what_is_late_already_is_refused_before_it_is_counted() -> None:
    with pytest.raises(RequestError) as caught, admission().slot(A, "explain", 0.0):
        pass
    assert caught.value.code.name == "DEADLINE_EXCEEDED"


def test_in_calm_nobody_is_refused_by_estimate() -> None:
    assert not admission().busy(0.001)
    assert not admission([task(0.4)]).busy(float("inf"))
    assert admission([task(0.4)]).busy(1.0), "a quarter of the caller's time"
    assert admission([task(0.6)]).busy(float("inf"))


def test_interactive_requests_wait_two_seconds_or_four_times_their_own_work() -> None:
    hundred = admission([task()] * 100)
    assert refusal(hundred, task()).refused == "queue"
    hundred.check(task(0.8))
    hundred.check(task(priority="batch"))
    admission([task()] * 50).check(task())


def test_a_number_in_the_configuration_wins() -> None:
    assert refusal(admission([task()] * 50, queue_seconds=0.5), task()).refused == "queue"
    admission([task()] * 100, queue_seconds=60).check(task())


def test_what_would_come_too_late_is_refused_and_comes_back_later() -> None:
    gate = admission([task()] * 30)
    expected = gate.expect(Prospect("a", 1.0, True, "m", "exact", 0.03))
    assert expected is not None
    end = expected.end
    gate.check(task(left=SAFETY_FACTOR * end + 0.1))
    late = refusal(gate, task(left=end))
    assert late.refused == "deadline"
    gate.check(task(left=end, allow_partial=True))
    assert refusal(gate, task(left=0.1, allow_partial=True)).refused == "deadline", "not even its first pass"
    assert refusal(gate, task(left=end, priority="batch")).refused == "deadline"


def test_more_than_was_asked_for_is_done_only_where_there_is_plenty_of_time() -> None:
    gate = admission([task()] * 30)
    expected = gate.expect(Prospect("a", 1.0, True, "m", "exact", 0.03))
    assert expected is not None
    assert gate.has_spare_time(task())
    assert gate.has_spare_time(task(left=SPARE_FACTOR * expected.end + 0.1))
    assert not gate.has_spare_time(task(left=SPARE_FACTOR * expected.end - 0.1))
    unknown = admission(measured=False)
    assert unknown.has_spare_time(task())
    assert not unknown.has_spare_time(task(left=100.0))


def test_another_callers_work_keeps_nobody_out() -> None:
    crowd = [task()] * 100
    refusal(admission(crowd), task())
    admission(crowd).check(task(caller="b"))


def test_what_cannot_be_done_in_time_even_alone_is_told_so() -> None:
    gate = admission()
    with pytest.raises(RequestError, match=r"about 9\.0 s even alone") as caught:
        gate.check_alone(task(9.0, left=1.0))
    assert caught.value.code.name == "DEADLINE_EXCEEDED"
    gate.check_alone(task(0.9, left=1.0))
    gate.check_alone(task(9.0, left=1.0, allow_partial=True))
    gate.check_alone(task(9.0, left=1.0, least_cost=0.0))


@pytest.mark.parametrize(
    ("methods", "allowed", "named"),
    [
        (["smooth_grad"], False, True),
        (["grad_cam", "smooth_grad"], False, True),
        (["smooth_grad"], True, False),
        (["grad_cam", "integrated_gradients"], False, False),
    ],
)
def test_allow_partial_is_named_only_where_it_would_help(methods: list[str], *, allowed: bool, named: bool) -> None:
    arguments = ExplainArguments(tuple(Call(method, {}, Target(label=0)) for method in methods))
    late = task(9.0, left=1.0, arguments=arguments, allow_partial=allowed)
    ending = "allow more time, or allow_partial" if named else "allow more time"
    assert failure(Failure("deadline", ""), late).text.endswith(ending)
    if not allowed:
        with pytest.raises(RequestError, match=f"even alone; {ending}$"):
            admission().check_alone(late)


def test_the_methods_with_partial_answers_are_those_that_catch_their_time_being_up() -> None:
    catching = {name for name, method in METHODS.items() if "TimeUp" in method.function.__code__.co_names}
    assert catching == PARTIAL_ANSWERS & METHODS.keys()


def test_without_a_measured_speed_nobody_is_refused() -> None:
    gate = admission([task()] * 1000, measured=False)
    gate.check(task(left=0.01))
    gate.check_alone(task(9.0, left=0.01))
    assert gate.wait_now() == 0


@pytest.mark.parametrize("seed", range(20))
def test_before_it_is_read_a_request_is_refused_only_where_it_would_be_afterwards(seed: int) -> None:
    draw = random.Random(seed)
    gate = admission([task(draw.expovariate(5), caller=draw.choice("abc")) for _ in range(draw.randrange(60))])
    refused = 0
    for _ in range(50):
        left = draw.expovariate(1)
        try:
            gate.check_least(Prospect(*A, True, "m", "exact", 0.0), left)
        except Full:
            refused += 1
            with pytest.raises(RequestError):
                gate.check(task(draw.expovariate(5), left=left))
    assert refused or not gate.busy(1.0)


def test_a_request_for_an_unknown_model_is_read() -> None:
    admission([task()] * 1000).check_least(Prospect(*A, True, "n", "exact", 0.0), 0.01)


def test_pictures_that_are_being_decoded_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AGE_SECONDS", -1)
    gate = admission()
    gate.note("ExplainRequest", "m", task(0.1), 0.02)
    with ExitStack() as inside:
        for _ in range(50):
            inside.enter_context(gate.decoding(A, "ExplainRequest", "m", None))
        assert gate.busy(float("inf"))
        refusal(gate, task())
    assert not gate.busy(float("inf"))
    gate.check(task())


def test_one_caller_may_hold_its_share_of_the_work() -> None:
    much = [task(SHARE_CHECK_SECONDS, priority="batch"), task(1.0, caller="b", priority="batch")]
    assert refusal(admission(much), task(priority="batch")).refused == "caller"
    admission(much).check(task(caller="b", priority="batch"))
    admission(much[:1]).check(task(priority="batch"))
    admission(much, caller_share=1).check(task(priority="batch"))


def test_gauges_tell_the_wait_and_the_speed() -> None:
    gate = admission([task()] * 100)
    assert gate.wait_now() == pytest.approx(8 * 0.03)  # A new caller waits for the pass that runs.
    assert gate.capacity() == SPEED
