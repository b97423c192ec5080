"""Time: budgets, deadlines and callers who go away."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import pytest
from serving import Server, Stubs, methods, picture, refused, values

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2

pytestmark = pytest.mark.alone
STEP = 0.5  # Seconds of the longest pass, by the engine's own rule.
MOST = 2000  # Samples or steps that a method may take at most.


class Speed(NamedTuple):
    """What this machine does, so that no test depends on it."""

    sample_seconds: float

    @property
    def budget(self) -> float:
        """Seconds in which some passes are made, however slow the machine is."""
        return max(0.2, 50 * self.sample_seconds)

    @property
    def deadline(self) -> float:
        """Seconds in which a part of MOST samples is taken, also where the machine is soon twice or half as fast."""
        return max(0.4, MOST * self.sample_seconds / 4)

    def samples(self, seconds: float) -> int:
        """As many as take several times so long."""
        return min(MOST, max(1, round(5 * seconds / self.sample_seconds)))


@pytest.fixture(scope="module")
def speed(server: Server, stubs: Stubs) -> Speed:
    """The shortest of three measurements, once the workers have done what they put off until after their start."""
    eventually(lambda: cpu(server) < 0.2, 60)
    seconds = []
    for _ in range(3):
        begun = time.monotonic()
        stubs.gradients.Explain(wide(100), timeout=120)
        seconds.append((time.monotonic() - begun) / 100)
    print(f"a sample takes {1000 * min(seconds):.2f} ms")
    return Speed(min(seconds))


def wide(samples: int, **options: Any) -> explain_pb2.ExplainRequest:
    budget, copies = options.pop("budget", None), options.pop("copies", 1)
    request = explain_pb2.ExplainRequest(
        model="small",
        image=picture(3, 64, 64),
        methods=methods(smooth_grad={"samples": samples}) * copies,
        options=pb.RequestOptions(**options),
    )
    if budget:
        request.options.time_budget.FromNanoseconds(int(budget * 1e9))
    return request


def eventually(condition: Callable[[], bool], patience: float = 10) -> float:
    """Waits until it holds; returns after how many seconds."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + patience
        time.sleep(0.02)
    return time.monotonic() - begun


@pytest.fixture(autouse=True)
def idle(server: Server) -> None:
    eventually(lambda: server.metric("gradserve_jobs_in_flight") == 0, 60)


def test_without_a_budget_all_samples_are_taken(stubs: Stubs, speed: Speed) -> None:
    samples = speed.samples(speed.budget)
    begun = time.monotonic()
    reply = stubs.gradients.Explain(wide(samples), timeout=120)
    assert reply.explanations[0].done == samples
    assert reply.explanations[0].completed_fraction == 1
    assert time.monotonic() - begun > speed.budget, "or the next tests would prove nothing"


def test_a_partial_answer_comes_back_in_time(server: Server, stubs: Stubs, speed: Speed) -> None:
    samples = speed.samples(speed.budget)
    partial = server.metric("gradserve_partial_total")
    for _ in range(5):
        begun = time.monotonic()
        reply = stubs.gradients.Explain(wide(samples, budget=speed.budget, allow_partial=True), timeout=60)
        seconds = time.monotonic() - begun
        explanation = reply.explanations[0]
        assert 0 < explanation.done < explanation.asked == samples
        assert explanation.completed_fraction == pytest.approx(explanation.done / samples)
        told = f"TIME_UP: a partial answer, since time ran out after {explanation.done} of {samples} samples"
        assert told in explanation.warnings
        assert values(explanation.raw).shape == (64, 64)
        assert values(explanation.raw).any()
        print(f"{explanation.done} of {samples} samples in {1000 * seconds:.0f} ms")
        assert seconds < speed.budget + STEP
    assert server.metric("gradserve_partial_total") == partial + 5


def test_a_partial_answer_is_what_fewer_samples_give(stubs: Stubs, speed: Speed) -> None:
    """The noise of a sample depends on its number alone, so 7 of 500 samples are 7 samples."""
    some = wide(speed.samples(speed.budget), budget=speed.budget, allow_partial=True, seed=5)
    partial = stubs.gradients.Explain(some, timeout=60).explanations[0]
    full = stubs.gradients.Explain(wide(partial.done, seed=5), timeout=60).explanations[0]
    assert values(partial.raw) == pytest.approx(values(full.raw), rel=1e-4, abs=1e-4 * full.high)


def test_without_allow_partial_it_is_deadline_exceeded(stubs: Stubs, speed: Speed) -> None:
    begun = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        stubs.gradients.Explain(wide(speed.samples(speed.budget), budget=speed.budget), timeout=60)
    seconds = time.monotonic() - begun
    failure = refused(caught.value)
    assert (failure.code, failure.reason) == ("DEADLINE_EXCEEDED", "TIME_UP")
    print(f"DEADLINE_EXCEEDED after {1000 * seconds:.0f} ms")
    assert seconds < speed.budget + STEP


def test_the_calls_own_deadline_counts_too(stubs: Stubs, speed: Speed) -> None:
    begun = time.monotonic()
    reply = stubs.gradients.Explain(wide(MOST, allow_partial=True), timeout=speed.deadline)
    assert 0 < reply.explanations[0].done < MOST
    print(f"{reply.explanations[0].done} of {MOST} samples in {time.monotonic() - begun:.2f} s of {speed.deadline:.2f}")
    with pytest.raises(grpc.RpcError) as caught:
        stubs.gradients.Explain(wide(MOST), timeout=0.3)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_smaller_of_budget_and_deadline_counts(stubs: Stubs, speed: Speed) -> None:
    begun = time.monotonic()
    reply = stubs.gradients.Explain(wide(MOST, budget=300, allow_partial=True), timeout=speed.deadline)
    assert time.monotonic() - begun < speed.deadline
    assert 0 < reply.explanations[0].done < MOST


@pytest.mark.parametrize("leave", ["cancel", "deadline"])
def test_a_caller_who_goes_away_frees_the_device_within_one_step(server: Server, stubs: Stubs, leave: str) -> None:
    cancelled = server.metric("gradserve_cancelled_total")
    call = stubs.gradients.Explain.future(wide(MOST, copies=4), timeout=None if leave == "cancel" else 1)
    if leave == "cancel":
        eventually(lambda: server.metric("gradserve_jobs_in_flight") == 1)
        time.sleep(0.5)
        call.cancel()
    else:  # It is refused at once or stopped early, where its cost tells that it cannot end in time.
        assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    gone = time.monotonic()
    eventually(lambda: server.metric("gradserve_jobs_in_flight") == 0)
    if leave == "cancel":
        eventually(lambda: server.metric("gradserve_cancelled_total") == cancelled + 1)
    eventually(lambda: cpu(server) < 0.2, 15)
    print(f"all workers idle {time.monotonic() - gone:.1f} s after the caller left")
    time.sleep(1)  # Statistics come with some delay.
    rows = server.metric("gradserve_step_rows_sum")
    time.sleep(1)
    assert server.metric("gradserve_step_rows_sum") == rows


def cpu(server: Server, seconds: float = 0.2) -> float:
    """Processor seconds per second that the workers use."""
    before = [sum(worker.cpu_times()[:2]) for worker in server.workers]
    time.sleep(seconds)
    return (sum(sum(worker.cpu_times()[:2]) for worker in server.workers) - sum(before)) / seconds


def test_a_gradient_beside_a_wide_job_does_not_wait_for_it(server: Server, stubs: Stubs) -> None:
    """Both workers are busy with many steps; a gradient comes back in about one step, not after them."""
    steps = methods(integrated_gradients={"steps": MOST}) * 4
    wide = explain_pb2.ExplainRequest(model="small", image=picture(1, 64, 64), methods=steps)
    busy = [stubs.gradients.Explain.future(wide) for _ in range(2)]
    try:
        eventually(lambda: server.metric("gradserve_jobs_in_flight") == 2)
        time.sleep(1)
        waits, waited = [], []
        before = [server.metric(f"gradserve_step_seconds_{what}", model="small") for what in ("sum", "count")]
        for i in range(5):
            request = explain_pb2.ExplainRequest(
                model="small",
                image=picture(i, 64, 64),
                methods=methods(gradient={}),
                targets=[pb.Target(class_index=i)],
            )
            begun = time.monotonic()
            reply = stubs.gradients.Explain(request, timeout=60)
            waits.append(time.monotonic() - begun)
            waited.append(reply.provenance.queue_seconds)
        print("a gradient beside them took", ", ".join(f"{1000 * w:.0f}" for w in waits), "ms")
        assert not any(call.done() for call in busy)
        time.sleep(1)  # By then the workers have told of these steps.
        after = [server.metric(f"gradserve_step_seconds_{what}", model="small") for what in ("sum", "count")]
        step = (after[0] - before[0]) / (after[1] - before[1])
        print(f"they waited {', '.join(f'{1000 * w:.0f}' for w in waited)} ms; a step took {1000 * step:.0f} ms")
        assert sorted(waited)[2] < 2 * step
    finally:
        for call in busy:
            call.cancel()
