"""Processes for tests of the keeper's tables: they end when they are told to."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace

from gradserve_server.keeper.workers import Workers
from gradserve_server.metrics import Metrics
from gradserve_server.models.card import ModelCard
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.pool.wire import Ready, Serve, WorkerSettings

SPECS = tuple(ModelSpec(name=name) for name in "abc")


def card(name: str, digest: str = "", classes: tuple[str, ...] = ("yes", "no")) -> ModelCard:
    sizes = {"height": 8, "width": 8, "resize": 8, "interpolation": "bilinear", "mean": (0.5,), "std": (0.5,)}
    facts = {"index_digest": "", "pictures_digest": "", "head": "softmax", "sample": (), "gflop": 1.0}
    return SimpleNamespace(name=name, digest=digest, classes=classes, **sizes, **facts)  # type: ignore[return-value]


class Scripted:
    """Stands in for a process. Its number of a process is one that no process has."""

    def __init__(self, keeper: "Keeper", settings: WorkerSettings, name: bytes) -> None:
        self.keeper, self.settings, self.name = keeper, settings, name
        self.pid = (1 << 22) + 1 + len(keeper.made)
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.killed = self.stopped = False

    async def wait(self) -> int:
        return await asyncio.shield(self.code)

    def kill(self) -> None:
        self.killed = True
        if not self.code.done():
            self.code.set_result(-9)

    def say(self, message: object) -> None:
        self.keeper.workers.on_message(self.name, message)

    def lose(self) -> None:
        self.keeper.workers.on_lost(self.name)

    async def die(self) -> None:
        """Returns when the keeper has noticed."""
        if not self.code.done():
            self.code.set_result(1)
        self.lose()
        await settled()

    def ready(self, cards: str = "abc", **unavailable: str) -> None:
        self.say(Ready(tuple(map(card, cards)), "cpu", {}, {}, unavailable))


class Keeper:
    """Workers with scripted processes. `fault` keeps them from being started."""

    def __init__(self, settings: Sequence[WorkerSettings], **facts: object) -> None:
        self.made: list[Scripted] = []
        self.fault: Exception | None = None
        self.metrics = Metrics()
        options = {"unavailable": {}, "give_up_seconds": float("inf"), **facts}
        self.sent: list[tuple[bytes, object]] = []
        self.workers = Workers(settings, self._start, self._send, self.metrics, **options)  # type: ignore[arg-type]
        self.start = asyncio.create_task(self.workers.start())

    async def _start(self, settings: WorkerSettings, name: bytes) -> Scripted:
        if self.fault is not None:
            raise self.fault
        self.made.append(Scripted(self, settings, name))
        return self.made[-1]

    def _send(self, name: bytes, messages: Sequence[object]) -> None:
        self.sent += [(name, message) for message in messages]

    def metric(self, name: str) -> float:
        value = self.metrics.registry.get_sample_value(name)
        assert value is not None
        return value

    async def end(self) -> None:
        self.workers.kill()
        self.start.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self.start


async def loading(workers: int = 2, strict: bool = False, **facts: object) -> Keeper:
    """A keeper whose workers load."""
    keeper = Keeper([WorkerSettings(SPECS, "cpu", strict=strict) for _ in range(workers)], **facts)
    await settled()
    return keeper


async def serving(workers: int = 2, **facts: object) -> Keeper:
    """A keeper whose workers are ready."""
    keeper = await loading(workers, **facts)
    for process in keeper.made:
        process.ready()
    assert isinstance(await keeper.start, Serve)
    return keeper


async def settled() -> None:
    """Lets everything happen that can happen without time."""
    for _ in range(20):
        await asyncio.sleep(0)
