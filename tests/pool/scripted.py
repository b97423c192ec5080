"""Workers for tests of the pool's book-keeping: they are told what to say and when to die."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from gradserve_server.models.card import ModelCard
from gradserve_server.pool import pool as module
from gradserve_server.pool import watchdog
from gradserve_server.pool.pool import Pool
from gradserve_server.pool.wire import Beat, Outcome, Ready, Task, WorkerSettings

CARD: ModelCard = SimpleNamespace(name="m", digest="", sample=(), gflop=1.0)  # type: ignore[assignment]


class Scripted:
    """Stands in for a Handle."""

    made: list["Scripted"] = []  # noqa: RUF012
    refusing = False  # whether no process can be started

    def __init__(
        self, settings: WorkerSettings, loop: Any, hear: Callable[..., None], lost: Callable[..., None]
    ) -> None:
        if self.refusing:
            raise OSError("too many processes")
        self.settings, self.sent, self.closed, self.killed = settings, [], False, False
        self._hear, self._lost, self._loop = hear, lost, loop
        self.pid = len(self.made)
        self.made.append(self)

    def send(self, message: object) -> None:
        self.sent.append(message)

    def say(self, message: object) -> None:
        self._hear(self, message)

    def ready(self, gflops: float = 1.0) -> None:
        self.say(Ready((CARD,), "cpu", {("m", "exact"): gflops, ("small", "exact"): gflops}))

    def ready_but(self, cards: str, **unavailable: str) -> None:
        """It has loaded some models and not others."""
        self.say(
            Ready(tuple(SimpleNamespace(name=name, digest="", sample=()) for name in cards), "cpu", {}, {}, unavailable)
        )  # type: ignore[misc]

    def die(self) -> None:
        self._lost(self)

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        self.closed = True

    @property
    def tasks(self) -> list[str]:
        return [message.id for message in self.sent if isinstance(message, Task)]


class Clock:
    """The time of a pool, which passes as the test wants; the pool's own looks at its workers are off."""

    def __init__(self, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        assert pool._supervision is not None
        pool._supervision.cancel()
        self.now = time.monotonic()
        monkeypatch.setattr(module, "time", self)
        self._look = pool._supervisor.check
        self._look(self.now)

    def monotonic(self) -> float:
        return self.now

    def run(self, seconds: float, *speaking: Scripted, **beat: float) -> None:
        """Lets time pass, in which these workers send heartbeats, and the pool looks at all as often as it does."""
        end = self.now + seconds
        while self.now < end:
            self.now += watchdog.CHECK_SECONDS
            for worker in speaking:
                worker.say(Beat(**beat))
            self._look(self.now)

    def stop(self, seconds: float) -> None:
        """Lets time pass in which the front-end does not run."""
        self.now += seconds
        self._look(self.now)


def task(name: str, cost: float = 1.0, model: str = "m") -> Task:
    return Task(name, "predict", model, None, cost=cost)  # type: ignore[arg-type]


async def started(workers: int, devices: str = "cuda:{}", **facts: Any) -> Pool:
    pool = Pool([WorkerSettings((), devices.format(i)) for i in range(workers)], **facts)
    starting = asyncio.create_task(pool.start())
    await asyncio.sleep(0)
    for handle in Scripted.made:
        handle.ready()
    await starting
    return pool


async def ended(pool: Pool, task: Task) -> Outcome:
    async with aclosing(pool.stream(task)) as stream:
        *_, last = [told async for told in stream]
    assert isinstance(last, Outcome)
    return last


async def asked(pool: Pool, *tasks: Task) -> list["asyncio.Task[Outcome]"]:
    running = []
    for each in tasks:
        running.append(asyncio.create_task(ended(pool, each)))
        await asyncio.sleep(0)
    return running
