"""The keeper's table of workers: their start, their ends and their silence, with processes that do as they are told."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gradserve_server.config import StartError
from gradserve_server.engine.events import PassStats
from gradserve_server.keeper import kept, restarts, watchdog, workers
from gradserve_server.keeper.kept_worker import SHORT_PASS
from gradserve_server.pool.wire import Beat, Broken, Loading, Noted, Ready, Stop, Tick

from . import scripted
from .scripted import Keeper, card, settled

Start = Callable[..., Awaitable[Keeper]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses, and the keeper's own looks are off."""
    monkeypatch.setattr(restarts, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(watchdog, "CHECK_SECONDS", 3600.0)
    monkeypatch.setattr(workers, "LOST_SECONDS", 0.05)


@pytest.fixture
async def loading() -> AsyncIterator[Start]:
    kept: list[Keeper] = []

    async def start(*args: Any, **facts: Any) -> Keeper:
        kept.append(await scripted.loading(*args, **facts))
        return kept[-1]

    yield start
    for keeper in kept:
        await keeper.end()


@pytest.fixture
async def serving() -> AsyncIterator[Start]:
    kept: list[Keeper] = []

    async def start(*args: Any, **facts: Any) -> Keeper:
        kept.append(await scripted.serving(*args, **facts))
        return kept[-1]

    yield start
    for keeper in kept:
        await keeper.end()


async def test_half_of_the_workers_serve_nothing(loading: Start) -> None:
    keeper = await loading()
    keeper.made[0].ready()
    await settled()
    assert not keeper.start.done()
    keeper.made[1].ready()
    assert [each.name for each in (await keeper.start).cards] == ["a", "b", "c"]
    assert keeper.metric("gradserve_workers_ready") == 2


async def test_what_a_worker_cannot_load_is_served_by_none(loading: Start, caplog: pytest.LogCaptureFixture) -> None:
    keeper = await loading(unavailable={"d": "no such file: d"})
    assert "model d is not served: no such file: d" in caplog.text, "at once"
    keeper.made[0].ready("bc", a="no such recipe")
    keeper.made[1].ready("c", a="no such recipe", b="out of memory")
    serve = await keeper.start
    assert [each.name for each in serve.cards] == ["c"]
    reasons = {"d": "no such file: d", "a": "no such recipe", "b": "out of memory (in 1 of 2 workers)"}
    assert serve.unavailable == reasons
    for name, reason in reasons.items():
        assert caplog.text.count(f"model {name} is not served: {reason}\n") == 1
    await keeper.made[0].die()
    assert [spec.name for spec in keeper.made[2].settings.models] == ["c"], "a new worker keeps to it"
    assert keeper.made[2].settings.strict, "and does not begin with less"
    assert list(keeper.made[2].settings.served) == ["b", "c"]


async def test_networks_that_differ_between_workers_are_not_served(loading: Start) -> None:
    keeper = await loading()
    for process, digest in zip(keeper.made, ("one", "another"), strict=True):
        process.say(Ready((card("a", digest), card("b")), "cpu", {}))
    serve = await keeper.start
    assert [each.name for each in serve.cards] == ["b"]
    assert "other weights at every call" in serve.unavailable["a"]


async def test_a_model_that_kills_a_worker_is_left_out(loading: Start, caplog: pytest.LogCaptureFixture) -> None:
    keeper = await loading()
    keeper.made[0].say(Loading("a"))
    keeper.made[0].say(Loading("b"))
    assert keeper.sent == 2 * [(keeper.made[0].name, Noted())]
    await keeper.made[0].die()
    keeper.made[1].ready("abc")
    assert [spec.name for spec in keeper.made[2].settings.models] == ["a", "c"]
    keeper.made[2].ready("ac")
    serve = await keeper.start
    assert [each.name for each in serve.cards] == ["a", "c"]
    assert serve.unavailable["b"] == (
        "the worker died while loading it (out of memory? a crash in its builder?); "
        "leave it out, or try it alone: --model b (in 1 of 2 workers)"
    )
    keeper.made[2].say(Loading("c"))
    await keeper.made[2].die()
    assert "died while loading model c" in caplog.text


@pytest.mark.parametrize("strict", [False, True])
async def test_where_models_kill_all_workers_or_one_is_enough_the_start_fails(loading: Start, strict: bool) -> None:
    keeper = await loading(1, strict=strict)
    for name in "abc" if not strict else "a":
        keeper.made[-1].say(Loading(name))
        await keeper.made[-1].die()
    if not strict:
        keeper.made[-1].ready("")
    with pytest.raises(StartError, match=r"model a: the worker died while loading it .* --model a"):
        await keeper.start


@pytest.mark.parametrize("ends", ["broken", "dead"])
async def test_a_start_that_fails_says_why(loading: Start, ends: str) -> None:
    keeper = await loading()
    for process in list(keeper.made):
        if ends == "broken":
            process.say(Broken("model m: no such file"))
        await process.die()
    with pytest.raises(StartError, match="no such file" if ends == "broken" else "cpu died while starting"):
        await keeper.start


async def test_last_messages_may_come_after_the_end_of_a_process(
    loading: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "LAST_WORDS_SECONDS", 20.0)
    keeper = await loading(1)
    keeper.made[0].code.set_result(0)
    await settled()
    keeper.made[0].say(Broken("model m: no such file"))
    keeper.made[0].lose()
    with pytest.raises(StartError, match="no such file"):
        await asyncio.wait_for(keeper.start, 10)


async def test_the_start_fails_where_no_process_can_be_started(loading: Start) -> None:
    keeper = await loading()
    keeper.fault = OSError("too many processes")
    keeper.made[0].say(Loading("b"))
    await keeper.made[0].die()
    with pytest.raises(StartError, match=r"no new worker can be started on cpu \(OSError: too many processes\)"):
        await asyncio.wait_for(keeper.start, 20)


async def test_where_no_model_is_loaded_by_all_the_start_fails(loading: Start) -> None:
    keeper = await loading()
    keeper.made[0].ready("a", b="one reason", c="another")
    keeper.made[1].ready("b", a="a third", c="another")
    with pytest.raises(StartError) as caught:
        await keeper.start
    assert str(caught.value).splitlines() == [
        "model b: one reason (in 1 of 2 workers)",
        "model c: another",
        "model a: a third (in 1 of 2 workers)",
    ]


async def test_a_worker_that_died_is_replaced(serving: Start, caplog: pytest.LogCaptureFixture) -> None:
    keeper = await serving()
    await keeper.made[0].die()
    assert len(keeper.made) == 3
    assert keeper.metric("gradserve_workers_ready") == 1
    assert keeper.metric("gradserve_worker_restarts_total") == 0, "nothing is ready in its place yet"
    keeper.made[0].ready()
    assert keeper.metric("gradserve_workers_ready") == 1, "the dead are not heard"
    keeper.made[2].ready()
    assert keeper.metric("gradserve_worker_restarts_total") == 1
    assert "is ready in the place of one that died" in caplog.text
    keeper.made[2].ready()
    assert keeper.metric("gradserve_worker_restarts_total") == 1, "it has only connected again"


async def test_pauses_grow_while_no_process_can_be_started(
    serving: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(restarts, "FIRST_PAUSE_SECONDS", 0.01)
    keeper = await serving(1)
    keeper.fault = OSError("too many processes")
    await keeper.made[0].die()
    async with asyncio.timeout(20):
        while caplog.text.count("no new worker can be started on cpu (OSError: too many processes)") < 6:
            await asyncio.sleep(0.01)
    assert keeper.workers.all[0].deaths >= 6
    keeper.fault = None
    async with asyncio.timeout(20):
        while len(keeper.made) < 2:
            await asyncio.sleep(0.01)
    keeper.made[1].ready()
    assert keeper.metric("gradserve_worker_restarts_total") == 1


async def test_a_worker_that_is_lost_and_heard_again_is_not_replaced(
    serving: Start, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = await serving()
    keeper.made[0].lose()
    await asyncio.sleep(0.1)
    assert keeper.metric("gradserve_workers_ready") == 1
    assert keeper.metric("gradserve_heartbeats_late_total") == 1
    assert f"(process {keeper.made[0].pid}) is not heard and gets no tasks until it is" in caplog.text
    keeper.made[0].say(Beat(0.0))
    assert keeper.metric("gradserve_workers_ready") == 2
    assert f"(process {keeper.made[0].pid}) is heard again and takes tasks" in caplog.text
    assert len(keeper.made) == 2


async def test_a_worker_that_connects_again_at_once_is_not_silent(serving: Start) -> None:
    """So do all of them after a pause of the keeper. Without work they say nothing more, and would stay lost."""
    keeper = await serving()
    keeper.made[0].lose()
    keeper.made[0].ready()
    await asyncio.sleep(0.1)
    assert keeper.metric("gradserve_workers_ready") == 2
    assert keeper.metric("gradserve_heartbeats_late_total") == 0


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_lost_worker_is_killed_if_its_process_is_stopped(
    serving: Start, monkeypatch: pytest.MonkeyPatch, stopped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = await serving(1)
    keeper.made[0].stopped = stopped
    keeper.made[0].lose()
    await asyncio.sleep(0.1)
    for _ in range(59):
        keeper.workers.look(1.0)
    assert not keeper.made[0].killed
    keeper.workers.look(1.0)
    keeper.workers.look(1.0)
    await settled()
    assert keeper.made[0].killed == stopped
    assert ("is not heard for 60 s and does not run: it is killed" in caplog.text) == stopped
    assert len(keeper.made) == 1 + stopped


async def test_a_worker_in_a_stuck_pass_is_killed_once(
    serving: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = await serving(1)
    (process,) = keeper.made
    process.say(Beat(0.5))
    for _ in range(120):
        keeper.workers.look(1.0)
    assert not process.killed
    process.say(Tick((), 1, 0))  # That pass has ended, and others run.
    for _ in range(120):
        keeper.workers.look(1.0)
    assert not process.killed
    process.say(Beat(60.0))
    for _ in range(1200):
        keeper.workers.look(1.0)
    assert not process.killed, "a pass of a minute on a machine slowed twentyfold"
    for _ in range(3):
        keeper.workers.look(1.0)
    await settled()
    assert process.killed
    assert caplog.text.count("has run a pass for 1201 s (60 s were expected): it is killed") == 1


async def test_a_pass_does_not_age_while_its_process_is_stopped_or_after_it(
    serving: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = await serving(1)
    (process,) = keeper.made
    process.stopped = True
    process.say(Beat(0.1))
    for _ in range(3600):
        keeper.workers.look(1.0)
    assert not process.killed, "it is connected"
    process.stopped = False
    process.say(Tick((), 0, 0))
    for _ in range(3600):
        keeper.workers.look(1.0)
    assert not process.killed, "it has no pass to run"
    assert keeper.workers.all[0].expected <= SHORT_PASS


async def test_without_a_ready_worker_for_too_long_the_server_gives_up(
    serving: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = await serving(2, give_up_seconds=100)
    await keeper.made[0].die()
    for _ in range(200):
        keeper.workers.look(1.0)
    assert not keeper.workers.given_up.is_set(), "one is ready"
    await keeper.made[1].die()
    for _ in range(99):
        keeper.workers.look(1.0)
    keeper.made[-1].ready()
    keeper.workers.look(1.0)
    await keeper.made[-1].die()
    for _ in range(99):
        keeper.workers.look(1.0)
    assert not keeper.workers.given_up.is_set()
    keeper.workers.look(1.0)
    assert keeper.workers.given_up.is_set()
    assert "no worker has been ready for 100 s: the server gives up" in caplog.text


async def test_a_look_that_fails_is_not_the_last_one(
    serving: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "CHECK_SECONDS", 0.001)
    keeper = await serving(1)
    looks: list[float] = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        raise ArithmeticError("a fault of ours")

    monkeypatch.setattr(keeper.workers, "look", look)
    async with asyncio.timeout(10):
        while len(looks) < 3:
            await asyncio.sleep(0.001)
    assert "ArithmeticError: a fault of ours" in caplog.text


async def test_statistics_become_metrics(serving: Start) -> None:
    keeper = await serving()
    passes = (PassStats("m", 8, 0.5, 1.0), PassStats("m", 0, 0.0, retried=True))
    keeper.made[0].say(Tick(passes, 1, 100, cancelled_rows=3))
    keeper.made[1].say(Tick((), 1, 70))
    assert keeper.metric("gradserve_device_memory_bytes") == 100
    assert keeper.metric("gradserve_rows_unanswered_total") == 3
    assert keeper.metric("gradserve_oom_retries_total") == 1
    rows = keeper.metrics.registry.get_sample_value("gradserve_step_rows_sum", {"model": "m"})
    assert rows == 8


async def test_the_end_asks_workers_to_stop_and_kills_those_that_do_not(
    serving: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "STOP_SECONDS", 0.1)
    keeper = await serving()
    first, second = keeper.made
    stopping = asyncio.create_task(keeper.workers.stop())
    await settled()
    assert keeper.sent == [(first.name, Stop()), (second.name, Stop())]
    first.code.set_result(0)
    await stopping
    assert first.code.result() == 0
    assert second.code.result() == -9
    assert len(keeper.made) == 2
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_stopping_does_not_wait_for_workers_that_load(loading: Start) -> None:
    keeper = await loading()
    keeper.made[0].ready()
    stopping = asyncio.create_task(keeper.workers.stop())
    await settled()
    assert [process.killed for process in keeper.made] == [False, True]
    keeper.made[0].kill()
    await stopping


async def test_stopping_waits_until_a_start_is_undone(loading: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is being started is killed once it runs: nobody else would end it."""
    keeper, undone = await loading(1), []

    async def start(settings: object, name: bytes) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            undone.append(name)
            raise

    monkeypatch.setattr(keeper.workers, "_start", start)
    keeper.made[0].say(Loading("a"))
    await keeper.made[0].die()
    keeper.workers.kill()
    await settled()
    await keeper.workers.stop()
    assert undone == [keeper.workers.all[0].name]


async def test_a_fault_of_ours_at_an_end_does_not_keep_the_next_process_from_starting(
    serving: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = await serving()

    def fault() -> None:
        raise ArithmeticError("a fault of ours")

    with monkeypatch.context() as patch:
        patch.setattr(keeper.workers, "_note_count", fault)
        await keeper.made[0].die()
    assert "ArithmeticError: a fault of ours" in caplog.text
    assert len(keeper.made) == 3
    keeper.made[2].ready()
    assert keeper.metric("gradserve_workers_ready") == 2
