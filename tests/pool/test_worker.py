"""The worker's loop: how long it waits for tasks that are on their way, whom it answers, and what it tells."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gradserve_server import memory
from gradserve_server.engine.events import Ended
from gradserve_server.pool.lines import Connected, Disconnected, Received
from gradserve_server.pool.wire import LONG_PASS_SECONDS, Beat, Cancel, Outcome, Ready, Stop, Task, Tick
from gradserve_server.pool.worker import Worker

WAIT = 5.0
READY = Ready((), "cpu", {})


class ScriptedLines:
    """Stands in for the lines to a keeper and two front-ends."""

    def __init__(self) -> None:
        self.coming: list[Received] = []
        self.arrival = threading.Condition()
        self.sent: list[tuple[int, Any]] = []

    def __len__(self) -> int:
        return 3

    def send(self, line: int, messages: Sequence[object]) -> None:
        self.sent += [(line, message) for message in messages]

    def come(self, line: int, message: object) -> None:
        with self.arrival:
            self.coming.append(Received(line, message))
            self.arrival.notify()

    def arrived(self) -> Iterator[Received]:
        while self.coming:
            yield self.coming.pop(0)

    def wait(self, seconds: float | None) -> Iterator[Received]:
        with self.arrival:
            self.arrival.wait_for(lambda: self.coming, seconds)
        yield from self.arrived()


class StandIn:
    """An engine that would wait for three jobs."""

    def __init__(self, wait: float = 0.0) -> None:
        self.models, self.submitted, self.wait = {"m": SimpleNamespace(device=torch.device("cpu"))}, [], wait
        self.passes: list[object] = []
        self.cancelled: list[str] = []
        self.cancelled_rows, self.read_seconds = 0, 0.0
        self.done: dict[str, float] = {}

    @property
    def jobs(self) -> int:
        return len(self.submitted)

    def limit(self, _: object) -> int:
        return 8

    def submit(self, job: object) -> None:
        self.submitted.append(job)

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    def progress(self) -> dict[str, float]:
        return self.done

    def worth_waiting(self) -> float:
        return self.wait if len(self.submitted) < 3 else 0.0


def worker_of(engine: StandIn) -> tuple[Worker, ScriptedLines]:
    lines = ScriptedLines()
    return Worker(lines, engine, READY), lines  # type: ignore[arg-type]


def gathering(wait: float, *messages: object) -> tuple[Worker, StandIn, float]:
    """What a worker has after it has gathered while these come in, and how long it took."""
    engine = StandIn(wait)
    worker, lines = worker_of(engine)

    def arrive() -> None:
        for message in messages:
            time.sleep(0.02)
            lines.come(1, message)

    thread = threading.Thread(target=arrive)
    begun = time.monotonic()
    thread.start()
    worker._gather()
    took = time.monotonic() - begun
    thread.join()
    return worker, engine, took


def task(name: str, **facts: Any) -> Task:
    return Task(name, "predict", "m", np.zeros((8, 8, 3), np.uint8), **facts)


def test_it_goes_on_as_soon_as_all_are_there() -> None:
    _, engine, took = gathering(WAIT, task("a"), task("b"), task("c"))
    assert [job.id for job in engine.submitted] == ["a", "b", "c"]
    assert took < WAIT


def test_it_does_not_wait_longer_than_it_is_worth() -> None:
    _, engine, took = gathering(0.3, task("a"))
    assert len(engine.submitted) == 1
    assert 0.05 < took < WAIT


def test_nothing_is_waited_for_after_a_stop() -> None:
    worker, engine, took = gathering(WAIT, task("a"), Stop())
    assert worker._stopping
    assert len(engine.submitted) == 1
    assert took < WAIT


def ended(job: Any) -> Ended:
    job.started, job.rows, job.compute = job.arrived, 1, 0.1
    return Ended(job, result=job.id, error=None)


def test_each_front_end_gets_the_answers_to_its_own_tasks() -> None:
    engine = StandIn()
    worker, lines = worker_of(engine)
    for line, name in ((1, "a"), (2, "b"), (1, "c")):
        worker._take(line, task(name))
    worker._tell_events([ended(job) for job in engine.submitted])
    answers = {(line, message.id) for line, message in lines.sent if isinstance(message, Outcome)}
    assert answers == {(1, "a"), (1, "c"), (2, "b")}


def test_tasks_of_a_front_end_that_is_gone_are_dropped_and_those_of_others_are_not() -> None:
    engine = StandIn()
    worker, lines = worker_of(engine)
    for line, name in ((1, "a"), (2, "b"), (1, "c")):
        worker._take(line, task(name))
    worker._take(1, Disconnected())
    assert engine.cancelled == ["a", "c"]
    worker._take(2, Cancel("b"))
    worker._take(2, Cancel("unknown"))
    assert engine.cancelled == ["a", "c", "b"]
    worker._take(1, Connected())
    ((line, message),) = lines.sent
    assert line == 1
    assert replace(message, sent=0.0) == replace(READY, sent=0.0)
    assert message.sent == pytest.approx(time.monotonic(), abs=5)


def test_statistics_tell_each_front_end_what_the_others_have() -> None:
    engine = StandIn()
    worker, lines = worker_of(engine)
    worker._take(1, task("a", caller="anna", cost=5.0))
    worker._take(2, task("b", caller="ben", cost=7.0, weight=2.0))
    engine.done, engine.cancelled_rows = {"b": 3.0}, 4
    engine.read_seconds, worker._busy = 2.0, 5.0
    worker._tick()
    ticks = {line: message for line, message in lines.sent if isinstance(message, Tick)}
    assert [each.caller for each in ticks[1].others] == ["ben"]
    assert (ticks[1].others[0].cost, ticks[1].others[0].done, ticks[1].others[0].weight) == (7.0, 3.0, 2.0)
    assert [each.caller for each in ticks[2].others] == ["anna"]
    assert ticks[0].others == ()
    assert {tick.cancelled_rows for tick in ticks.values()} == {4}
    assert {tick.busy for tick in ticks.values()} == {3.0}, "what it read of models tells nothing of its speed"
    assert (engine.cancelled_rows, engine.read_seconds) == (0, 0.0)


def test_the_keeper_is_told_of_passes_that_are_new_long_or_the_first_after_a_pause() -> None:
    engine = StandIn()
    worker, lines = worker_of(engine)
    worker._take(1, task("a"))
    for expected in (0.0, 0.1, 0.1, LONG_PASS_SECONDS + 1, 0.1):
        worker._tell_pass(expected)
    worker._tick()
    worker._tell_pass(0.1)
    engine.submitted.clear()
    worker._tick()
    worker._tell_pass(0.1)
    beats = [message for line, message in lines.sent if line == 0 and isinstance(message, Beat)]
    assert beats == [Beat(0.0), Beat(LONG_PASS_SECONDS + 1), Beat(0.1)]


def test_memory_is_given_back_once_after_the_last_task(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr("gradserve_server.pool.worker.IDLE_SECONDS", 0.05)
    worker, lines = worker_of(StandIn())
    monkeypatch.setattr(memory, "give_back", lambda: given.append(len(lines.sent)))
    worker._take(1, Connected())
    lines.come(1, task("a"))
    worker._accept(block=True)
    assert not given, "its passes are to come"

    def stop() -> None:
        while not given:
            time.sleep(0.01)
        time.sleep(0.3)
        lines.come(1, Stop())

    thread = threading.Thread(target=stop)
    thread.start()
    worker._told_busy = False
    worker._accept(block=True)
    thread.join()
    assert len(given) == 1
