"""How front-ends end: those that miss the word, die or freeze meanwhile, and what is said of their requests."""

import asyncio
import gc
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from gradserve_server.keeper import front_ends, kept
from gradserve_server.keeper.front_ends import FrontEnds
from gradserve_server.keeper.keeper import first
from gradserve_server.metrics import COUNTERS_VARIABLE, Metrics
from gradserve_server.pool.wire import CutOff, Drain, Hello, Serve, Serving

from .scripted import settled

SERVE = Serve((), {})


class Process:
    """Stands in for a front-end's process. Its number of a process is one that no process has."""

    pid = (1 << 22) + 1

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await asyncio.shield(self.code)

    def kill(self) -> None:
        self.end(-9)

    def end(self, code: int) -> None:
        if not self.code.done():
            self.code.set_result(code)


class Table:
    """A keeper's table of front-ends that serve."""

    def __init__(self, count: int) -> None:
        self.made: list[Process] = []
        self.sent: list[tuple[bytes, object]] = []
        self.table = FrontEnds(count, self._start, self._send, Metrics())

    async def _start(self, index: int, name: bytes) -> Process:
        self.made.append(Process(name))
        return self.made[-1]

    def _send(self, name: bytes, messages: Sequence[object]) -> None:
        self.sent += [(name, message) for message in messages]

    async def serving(self) -> "Table":
        self.table.start()
        await settled()
        for process in self.made:
            self.table.on_message(process.name, Hello())
            self.table.on_message(process.name, Serving())
        await self.table.serve(SERVE)
        return self


@pytest.mark.parametrize(("codes", "complete"), [((0, 0), True), ((0, 3), False), ((-9, 0), False)])
async def test_only_front_ends_that_end_well_have_answered_all(codes: tuple[int, int], complete: bool) -> None:
    table = await Table(2).serving()
    draining = asyncio.create_task(table.table.drain("", 60))
    await settled()
    for process, code in zip(table.made, codes, strict=True):
        assert (process.name, Drain()) in table.sent
        process.end(code)
    assert await draining == complete


async def test_who_was_not_connected_is_told_to_drain_when_it_is_back() -> None:
    table = await Table(1).serving()
    (front_end,) = table.made
    draining = asyncio.create_task(table.table.drain("why", 60))
    await settled()
    table.sent.clear()
    table.table.on_message(front_end.name, Hello())
    assert table.sent == [(front_end.name, SERVE), (front_end.name, Drain("why"))]
    front_end.end(0)
    assert await draining


async def test_a_frozen_front_end_is_killed_soon_after_the_second_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_ends, "FLUSH_SECONDS", 0.05)
    table = await Table(1).serving()
    draining = asyncio.create_task(table.table.drain("", 3600))
    await settled()
    table.table.cut_off()
    assert (table.made[0].name, CutOff()) in table.sent
    async with asyncio.timeout(10):
        assert not await draining


async def test_a_front_end_that_dies_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(COUNTERS_VARIABLE, str(tmp_path))
    monkeypatch.setattr(kept, "LAST_WORDS_SECONDS", 3600)
    table = await Table(1).serving()
    table.made[0].end(-9)
    await settled()
    table.table.on_lost(table.made[0].name)
    await settled()
    assert len(table.made) == 2
    await table.table.drain("", 0)


async def test_nobody_waits_for_the_requests_of_a_front_end_that_has_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also while it cannot be started again."""
    monkeypatch.setenv(COUNTERS_VARIABLE, str(tmp_path))
    table = await Table(2).serving()
    table.table.on_message(table.made[0].name, Serving(1, 1))
    table.table.on_message(table.made[1].name, Serving(1, 0))
    leaving = asyncio.create_task(table.table.leave(1))
    await settled()
    assert not leaving.done()

    async def fail(index: int, name: bytes) -> Process:
        raise OSError("no memory")

    monkeypatch.setattr(table.table, "_start", fail)
    table.made[1].end(-9)
    table.table.on_lost(table.made[1].name)
    async with asyncio.timeout(10):
        await leaving
    await table.table.drain("", 0)


async def test_what_several_raise_is_raised_once(caplog: pytest.LogCaptureFixture) -> None:
    raised = []

    async def fail() -> None:
        raised.append(True)
        raise OSError("at fault")

    with suppress(OSError):
        await first(fail(), fail())
        raise AssertionError("nothing was raised")
    gc.collect()
    assert raised == [True, True]
    assert "never retrieved" not in caplog.text
