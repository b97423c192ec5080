"""What admission counts for an attack that may end at a first success."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from serving import PATIENCE, Server, Stubs, tensor

from gradserve.v1 import attack_pb2
from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.admission.expectations import FIRST_GUESS, Expectations
from gradserve_server.api.rpcs.attack import rows_at_most
from gradserve_server.methods.attack import METHODS, AttackArguments, Ball, GoalSpec, InputTransform
from gradserve_server.methods.parameters import bind
from gradserve_server.pool.wire import Outcome, Task

COST = 1000.0


def task(method: str, stop: bool = True, model: str = "net", **parameters: object) -> Task:
    plan = AttackArguments(
        method, bind(METHODS[method].function, parameters), GoalSpec(), Ball("linf", 0.03), (1.0,), stop
    )
    return Task("id", "attack", model, np.zeros((4, 4, 3), np.uint8), plan, cost=COST)


def ended(rows: int, partial: bool = False) -> tuple[Outcome, Outcome]:
    """An attack that took so many rows, and its certificate of three more."""
    return Outcome("id", SimpleNamespace(partial=partial), rows=rows), Outcome("id/certificate", rows=3)


@pytest.mark.parametrize("method", ["square", "one_pixel", "fooling"])
def test_searches_that_stop_at_a_first_success_are_counted_with_a_part(method: str) -> None:
    assert METHODS[method].stops_early
    assert Expectations().priced(task(method)).cost == pytest.approx(FIRST_GUESS * COST)
    assert Expectations().priced(task(method, stop=False)).cost == COST


def test_what_attacks_took_becomes_what_the_next_is_counted_with() -> None:
    expected, asked = Expectations(), task("square", queries=5000)
    for _ in range(100):
        expected.learn(asked, *ended(247))
    assert expected.priced(asked).cost == pytest.approx(COST * 250 / 5003, rel=1e-3)
    for _ in range(100):
        expected.learn(asked, *ended(5000))
    assert expected.priced(asked).cost == pytest.approx(COST, rel=1e-3), "nothing falls any more"
    assert expected.share(task("square", model="other")) == FIRST_GUESS
    assert expected.share(task("pgd")) == FIRST_GUESS


def test_the_mean_is_that_of_the_attacks() -> None:
    expected, asked = Expectations(), task("square", queries=997)
    counted = []
    for i in range(400):
        expected.learn(asked, *ended(997 if i % 2 else 97))
        counted.append(expected.share(asked))
    assert np.mean(counted[100:]) == pytest.approx((1 + 0.1) / 2, rel=0.02)


def test_attacks_that_ran_out_of_time_or_take_all_steps_teach_nothing() -> None:
    expected = Expectations()
    expected.learn(task("square"), *ended(9, partial=True))
    expected.learn(task("square", stop=False), *ended(5000))
    assert expected.share(task("square")) == FIRST_GUESS


def test_views_are_counted() -> None:
    asked = task("pgd", steps=10)
    wider = replace(asked.arguments, transform=InputTransform(eot={"samples": 8}))
    assert rows_at_most(asked.arguments) == 11 + 3
    assert rows_at_most(wider) == 8 * 11 + 3


def test_a_server_learns_what_square_takes() -> None:
    """The digits fall to large squares at once: what is outstanding while the next one runs is less than at first."""
    rng = np.random.default_rng(0)
    image = tensor(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    request = attack_pb2.AttackRequest(
        model="digits", image=image, method={"square": {"queries": 5000}}, preprocess=pb.PREPROCESS_AS_IS
    )
    with Server("[models.digits]\n", "--workers", "1") as server, server.channel() as channel:
        stubs = Stubs.of(channel)
        robust, weak = attack_pb2.AttackRequest(), attack_pb2.AttackRequest()
        robust.CopyFrom(request)
        robust.eps = 0.0
        robust.method.square.queries = 100_000  # It is still running when it is cancelled, also on a slow machine.
        weak.CopyFrom(request)
        weak.eps = 1.0
        before = outstanding(server, stubs, robust)
        for _ in range(12):
            reply = stubs.gradients.Attack(weak, timeout=PATIENCE)
            assert reply.certificate.queries < 500
        assert outstanding(server, stubs, robust) < before / 2


def outstanding(server: Server, stubs: Stubs, request: attack_pb2.AttackRequest) -> float:
    """GFLOP that are counted while the attack runs, which is then cancelled."""
    running = stubs.gradients.Attack.future(request, timeout=PATIENCE)
    end = time.monotonic() + 60
    while not (found := server.metric("gradserve_cost_outstanding")):
        assert time.monotonic() < end
        assert not running.done(), "it ended before it was seen"
    running.cancel()
    while server.metric("gradserve_cost_outstanding"):
        assert time.monotonic() < end
    return found
