"""Changes of the models as the keeper makes them, with processes that do as they are told."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gradserve_server.keeper import changes as module
from gradserve_server.keeper.changes import SEE_LOG, Changes
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.pool.wire import Broken, Changed, ChangeModels, Changing, Loading, Ready

from . import scripted
from .scripted import SPECS, card, settled


class FrontEnds:
    """Stands in for front-ends that have no requests."""

    fault: Exception | None = None

    async def switch(self, message: object) -> None:
        pass

    async def leave(self, generation: int) -> None:
        if self.fault:
            raise self.fault


class Managed:
    """A keeper of a worker with the models a, b and c, whose catalogue has others too."""

    def __init__(self, keeper: scripted.Keeper, read: Callable[[], Any], give_up_seconds: float) -> None:
        self.keeper, self.told = keeper, list[Any]()
        self.front_ends: Any = FrontEnds()
        self.changes = Changes(keeper.workers, self.front_ends, self._send, read, keeper.metrics, give_up_seconds)

    def _send(self, name: bytes, messages: Any) -> None:
        self.told.extend(messages)

    def ready(self, **classes: tuple[str, ...]) -> None:
        """Lets the last process say that it is ready. `classes`: of models that have others than before."""
        cards = [card(name, classes=classes[name]) if name in classes else card(name) for name in "abc"]
        self.keeper.made[-1].say(Ready(tuple(cards), "cpu", {}, generation=1))

    async def take(self, order: ChangeModels) -> None:
        """Takes an order; returns when its successor loads, or it has ended."""
        count = len(self.keeper.made)
        self.changes.take(b"front-end", order)
        async with asyncio.timeout(10):
            while len(self.keeper.made) == count and not self.ends:
                await asyncio.sleep(0.001)

    @property
    def ends(self) -> list[Changed]:
        return [message for message in self.told if isinstance(message, Changed)]

    async def end(self) -> Changed:
        """The end of the only change."""
        async with asyncio.timeout(10):
            while not self.ends:
                await asyncio.sleep(0.001)
        (end,) = self.ends
        return end


def catalogue() -> tuple[tuple[ModelSpec, ...], dict[str, str]]:
    return (*SPECS, ModelSpec(name="secret")), {}


@asynccontextmanager
async def managed(read: Callable[[], Any] = catalogue, give_up_seconds: float = 600) -> AsyncIterator[Managed]:
    keeper = await scripted.serving(1)
    one = Managed(keeper, read, give_up_seconds)
    try:
        yield one
    finally:
        await one.changes.stop()
        await keeper.end()


async def test_a_keeper_that_stops_takes_no_changes() -> None:
    async with managed() as one:
        await one.changes.stop()
        one.changes.take(b"front-end", ChangeModels("1", "reload", ("a",)))
        await settled()
        assert [end.failure and end.failure.kind for end in one.ends] == ["stopping"]
        assert len(one.keeper.made) == 1


async def test_changes_of_a_front_end_that_is_lost_are_dropped_unless_they_have_begun() -> None:
    async with managed() as one:
        await one.take(ChangeModels("1", "reload", ("a",)))
        for number, front_end in ((2, b"lost"), (3, b"front-end")):
            one.changes.take(front_end, ChangeModels(str(number), "unload", ("c",)))
        await settled()
        one.changes.on_lost(b"lost")
        await settled()
        assert [(end.id, end.failure and end.failure.kind) for end in one.ends] == [("2", "withdrawn")]


async def test_a_change_that_comes_with_the_stop_is_told_of_it() -> None:
    async with managed() as one:
        one.changes.take(b"front-end", ChangeModels("1", "reload", ("a",)))
        await one.changes.stop()
        assert [end.failure and end.failure.kind for end in one.ends] == ["stopping"]


async def test_who_may_change_some_models_hears_of_no_others() -> None:
    async with managed() as one:
        await one.take(ChangeModels("1", "reload", ("gone",), visible=("a", "gone")))
        failure = (await one.end()).failure
        assert failure is not None
        assert failure.text == "the catalogue has no model 'gone'; there are: a"


@pytest.mark.parametrize(
    ("visible", "names", "text"),
    [
        (("a",), {"a", ""}, SEE_LOG),
        (None, {"a", "b", ""}, "model b: no; where the files of b have changed, reload it by the same call"),
    ],
)
async def test_why_another_model_cannot_be_loaded(
    visible: tuple[str, ...] | None, names: set[str], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with managed() as one:
        await one.take(ChangeModels("1", "reload", ("a",), visible))
        successor = one.keeper.made[-1]
        for name in "ab":
            successor.say(Loading(name))
        successor.say(Broken("model b: no"))
        failure = (await one.end()).failure
        assert failure is not None
        assert (failure.kind, failure.text) == ("refused", text)
        assert {message.model for message in one.told if isinstance(message, Changing)} == names
        assert "model b: no" in caplog.text


async def test_why_a_model_of_ones_own_cannot_be_loaded() -> None:
    async with managed() as one:
        await one.take(ChangeModels("1", "reload", ("a",), visible=("a",)))
        one.keeper.made[-1].say(Broken("model a: no"))
        failure = (await one.end()).failure
        assert failure is not None
        assert failure.text == "model a: no"


async def test_many_long_names_make_no_long_line(caplog: pytest.LogCaptureFixture) -> None:
    async with managed() as one:
        await one.take(ChangeModels("1", "load", tuple(f"{i:064}" for i in range(256))))
        await one.end()
        assert max(map(len, caplog.messages)) < 1000


async def test_a_change_that_nobody_waits_for_is_dropped_unless_it_has_begun() -> None:
    async with managed() as one:
        await one.take(ChangeModels("1", "reload", ("a",)))
        one.changes.take(b"front-end", ChangeModels("2", "reload", ("b",)))
        await settled()
        for order in "12":
            one.changes.drop(order)
        await settled()
        assert [end.id for end in one.ends] == ["2"]
        one.ready()
        async with asyncio.timeout(10):
            while len(one.ends) < 2:
                await asyncio.sleep(0.001)
        assert one.ends[1] == Changed("1")
        assert len(one.keeper.made) == 2


async def test_a_successor_that_is_never_ready_ends_its_change() -> None:
    async with managed(give_up_seconds=0.05) as one:
        await one.take(ChangeModels("1", "reload", ("a",)))
        failure = (await one.end()).failure
        assert failure is not None
        assert failure.text == "a new worker was not ready after 0.05 s (pool.give_up_seconds)"
        assert [process.killed for process in one.keeper.made] == [False, True]


async def test_a_catalogue_that_cannot_be_read_ends_its_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """And keeps neither the next change nor the process's end waiting."""
    monkeypatch.setattr(module, "READ_SECONDS", 0.05)
    answers, readers = threading.Event(), list[threading.Thread]()

    def read() -> Any:
        readers.append(threading.current_thread())
        answers.wait(60)
        return catalogue()

    async with managed(read) as one:
        await one.take(ChangeModels("1", "reload", ("a",)))
        failure = (await one.end()).failure
        assert failure is not None
        assert failure.text == "the catalogue could not be read within 0.05 s"
        assert all(thread.daemon for thread in readers)
    answers.set()


async def test_what_is_kept_must_have_its_classes_too() -> None:
    """Its file of labels may have changed."""
    for changed, reason in (("b", "model b: its classes would change; where the files of b have"), ("a", "")):
        async with managed() as one:
            await one.take(ChangeModels("1", "reload", ("a",)))
            one.ready(**{changed: ("oui", "non")})
            failure = (await one.end()).failure
            assert (failure.text if failure else "").startswith(reason)
            assert (failure is None) == (changed == "a")
            assert one.keeper.made[1].killed == (changed == "b")


async def test_replaced_workers_end_after_a_fault_too(caplog: pytest.LogCaptureFixture) -> None:
    async with managed() as one:
        one.front_ends.fault = RuntimeError("a fault")
        await one.take(ChangeModels("1", "reload", ("a",)))
        one.ready()
        assert (await one.end()).failure is None
        old = one.keeper.made[0]
        old.code.set_result(0)
        async with asyncio.timeout(10):
            while len(one.keeper.workers.all) > 1:
                await asyncio.sleep(0.001)
        await settled()
        assert "a fault in the wait for requests of the replaced workers" in caplog.text
