"""The worker's loop: how long it waits for tasks that are on their way."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from gradserve_server.pool.wire import Stop, Task
from gradserve_server.pool.worker import Worker

WAIT = 5.0


class StandIn:
    """An engine that would wait for three jobs."""

    def __init__(self, wait: float) -> None:
        self.models, self.jobs, self.wait = {"m": SimpleNamespace()}, [], wait
        self.passes: list[object] = []

    def limit(self, _: object) -> int:
        return 8

    def submit(self, job: object) -> None:
        self.jobs.append(job)

    def worth_waiting(self) -> float:
        return self.wait if len(self.jobs) < 3 else 0.0


def gathering(wait: float, *messages: object) -> tuple[Worker, StandIn, float]:
    """What a worker has after it has gathered while these come in, and how long it took."""
    engine = StandIn(wait)
    worker = Worker(SimpleNamespace(), engine)  # type: ignore[arg-type]

    def arrive() -> None:
        for message in messages:
            time.sleep(0.02)
            worker._inbox.put(message)

    thread = threading.Thread(target=arrive)
    begun = time.monotonic()
    thread.start()
    worker._gather()
    took = time.monotonic() - begun
    thread.join()
    return worker, engine, took


def task(name: str) -> Task:
    return Task(name, "predict", "m", np.zeros((8, 8, 3), np.uint8))


def test_it_goes_on_as_soon_as_all_are_there() -> None:
    _, engine, took = gathering(WAIT, task("a"), task("b"), task("c"))
    assert [job.id for job in engine.jobs] == ["a", "b", "c"]
    assert took < WAIT


def test_it_does_not_wait_longer_than_it_is_worth() -> None:
    _, engine, took = gathering(0.3, task("a"))
    assert len(engine.jobs) == 1
    assert took == pytest.approx(0.3, abs=0.25)


def test_nothing_is_waited_for_after_a_stop() -> None:
    worker, engine, took = gathering(WAIT, task("a"), Stop())
    assert worker._stopping
    assert len(engine.jobs) == 1
    assert took < WAIT
