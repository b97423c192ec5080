"""Workers for tests of a pool's book-keeping: they are told what to say and when to be lost."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

from gradserve_server.models.card import ModelCard
from gradserve_server.models.served import ServedModels
from gradserve_server.pool.pool import Pool
from gradserve_server.pool.wire import Outcome, Ready, Task

CARD: ModelCard = SimpleNamespace(name="m", digest="", index_digest="", pictures_digest="", sample=(), gflop=1.0)  # type: ignore[assignment]
SMALL: ModelCard = SimpleNamespace(name="small", digest="", index_digest="", pictures_digest="", sample=(), gflop=1.0)  # type: ignore[assignment]


class ScriptedHub:
    """Stands in for a Hub."""

    def __init__(
        self, endpoints: Sequence[str], on_message: Callable[..., None], on_lost: Callable[..., None], keys: Any
    ) -> None:
        self.on_message, self.on_lost, self.closed = on_message, on_lost, False
        self.sent: dict[bytes, list[Any]] = {}

    def send(self, name: bytes, messages: Sequence[object]) -> None:
        self.sent.setdefault(name, []).extend(messages)

    def close(self) -> None:
        self.closed = True


class Scripted:
    """A worker that is connected to a pool."""

    def __init__(self, pool: Pool, number: int, device: str = "cpu") -> None:
        self.hub: ScriptedHub = pool._hub  # type: ignore[assignment]
        self.name, self.number, self.device = f"worker-{number}".encode(), number, device

    @property
    def sent(self) -> list[Any]:
        return self.hub.sent.get(self.name, [])

    def say(self, message: object) -> None:
        self.hub.on_message(self.name, message)

    def ready(self, gflops: float = 1.0, cards: Sequence[ModelCard] = (CARD, SMALL), **facts: Any) -> None:
        speeds = {(card.name, "exact"): gflops for card in cards}
        self.say(Ready(tuple(cards), self.device, speeds, pid=self.number, **facts))  # type: ignore[arg-type]

    def die(self) -> None:
        self.hub.on_lost(self.name)

    def answer(self, *names: str) -> None:
        for name in names:
            self.say(Outcome(name, result=name))

    @property
    def tasks(self) -> list[str]:
        return [message.id for message in self.sent if isinstance(message, Task)]


def task(name: str, cost: float = 1.0, model: str = "m") -> Task:
    return Task(name, "predict", model, None, cost=cost)  # type: ignore[arg-type]


def started(workers: int, devices: str = "cuda:{}") -> tuple[Pool, list[Scripted]]:
    """A pool with workers that are ready."""
    pool = Pool([])
    scripted = [Scripted(pool, i, devices.format(i)) for i in range(workers)]
    pool.serve(ServedModels([CARD]))
    for worker in scripted:
        worker.ready()
    return pool, scripted


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


async def results(running: list["asyncio.Task[Outcome]"]) -> list[Any]:
    async with asyncio.timeout(1):
        return [(await each).result for each in running]
