"""The pool's book-keeping, with workers that are told what to say and when to die."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gradserve_server.config import StartError
from gradserve_server.engine.events import PassStats
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.pool.members import MIN_SHARE_LEFT
from gradserve_server.pool.placement import MAX_ATTEMPTS
from gradserve_server.pool.pool import NoWorker, Pool
from gradserve_server.pool.wire import Broken, Cancel, Loading, Outcome, Preview, Tick, WorkerSettings

from .scripted import Clock, Scripted, asked, ended, started, task

pytestmark = pytest.mark.usefixtures("scripted")


async def test_tasks_go_where_the_least_is_outstanding(scripted: list[Scripted]) -> None:
    pool = await started(2)
    running = await asked(pool, task("a", 5), task("b", 2), task("c", 2), task("d", 2), task("e", 1))
    assert [handle.tasks for handle in scripted] == [["a", "e"], ["b", "c", "d"]]
    assert pool.outstanding == 12
    for handle in scripted:
        for name in handle.tasks:
            handle.say(Outcome(name, result=name.upper()))
    assert [(await r).result for r in running] == list("ABCDE")
    assert pool.outstanding == 0


async def test_a_faster_worker_gets_more(scripted: list[Scripted]) -> None:
    pool = await started(2)
    scripted[0].ready(gflops=10)
    await asked(pool, *(task(name, 10) for name in "abcdefghijk"))
    assert len(scripted[0].tasks) == 10


async def test_workers_on_one_device_get_the_same(scripted: list[Scripted]) -> None:
    pool = await started(2, devices="cpu")
    scripted[0].ready(gflops=10)
    await asked(pool, *(task(name, 10) for name in "abcdefgh"))
    assert [len(each.tasks) for each in scripted] == [4, 4]


async def test_a_small_model_says_nothing_about_the_speed_of_others(scripted: list[Scripted]) -> None:
    pool = await started(1)
    scripted[0].ready(gflops=10)
    for _ in range(100):
        scripted[0].say(Tick((PassStats("small", 8, 1.0, 1e-6),), 1, 0))
    (member,) = pool.members
    assert member.seconds(task("a", 100)) == 10
    assert member.seconds(task("c", 1e-6, "small")) == pytest.approx(1, rel=0.01)


async def test_a_cancelled_caller_cancels_the_task(scripted: list[Scripted]) -> None:
    pool = await started(1)
    (running,) = await asked(pool, task("a"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert scripted[0].sent[-1] == Cancel("a")
    assert pool.outstanding == 0
    scripted[0].say(Outcome("a"))


async def test_an_answered_task_is_not_cancelled(scripted: list[Scripted]) -> None:
    pool = await started(1)
    (running,) = await asked(pool, task("a"))
    scripted[0].say(Outcome("a"))
    await running
    await asyncio.sleep(0)
    assert not [message for message in scripted[0].sent if isinstance(message, Cancel)]


async def test_previews_come_before_the_outcome(scripted: list[Scripted]) -> None:
    pool = await started(1)

    async def listen() -> list[Any]:
        return [told async for told in pool.stream(task("a"))]

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0)
    for said in (Preview("a", 1, 2, {}), Preview("unknown", 1, 2, {}), Preview("a", 2, 2, {}), Outcome("a")):
        scripted[0].say(said)
    assert [type(told).__name__ for told in await listening] == ["Preview", "Preview", "Outcome"]


async def test_a_worker_is_as_fast_as_its_passes_were_and_what_it_does_between_them(scripted: list[Scripted]) -> None:
    pool = await started(1)
    (member,) = pool.members
    for _ in range(100):
        scripted[0].say(Tick((PassStats("m", rows=8, seconds=0.5, gflop=50.0),), 1, 0, busy=0.4))
    assert member.seconds(task("a", 100)) == pytest.approx(1)
    for _ in range(100):
        scripted[0].say(Tick((PassStats("m", rows=8, seconds=0.5, gflop=50.0),), 1, 0, busy=1.0))
    assert member.seconds(task("a", 100)) == pytest.approx(2)


async def test_precisions_have_speeds_of_their_own(scripted: list[Scripted]) -> None:
    pool = await started(1)
    (member,) = pool.members
    member.speeds = {("m", "exact"): 1.0, ("m", "fast"): 1.0}
    for _ in range(100):
        scripted[0].say(Tick((PassStats("m", 8, 0.5, 50.0, precision="fast"),), 1, 0))
    assert member.seconds(task("a", 100)) == 100
    assert member.seconds(replace(task("a", 100), precision="fast")) == pytest.approx(1)
    assert not member.knows(replace(task("a"), precision="balanced"))


async def test_what_is_done_of_a_task_is_not_outstanding(scripted: list[Scripted]) -> None:
    pool = await started(1)
    await asked(pool, task("a", 30), task("b", 10))
    scripted[0].say(Tick((), 2, 0, progress={"a": 20.0}))
    first, second = pool.members[0].loads()
    assert (first.seconds, first.begun) == (pytest.approx(10), True)
    assert (second.seconds, second.begun) == (10, False)
    scripted[0].say(Tick((), 2, 0, progress={"a": 90.0}))
    assert pool.members[0].loads()[0].seconds == pytest.approx(30 * MIN_SHARE_LEFT)


async def test_the_tasks_of_a_dead_worker_run_elsewhere(scripted: list[Scripted]) -> None:
    started_again: list[int] = []
    pool = await started(2, on_restart=lambda: started_again.append(1))
    running = await asked(pool, task("a", 1), task("b", 9), task("c", 1))
    assert scripted[0].tasks == ["a", "c"]
    scripted[0].die()
    assert scripted[1].tasks == ["b", "a", "c"]
    assert len(scripted) == 3
    assert started_again == [], "nothing is ready in its place yet"
    scripted[0].say(Outcome("a", result="from the dead"))
    scripted[2].ready()
    assert started_again == [1]
    for name in "abc":
        scripted[1].say(Outcome(name, result=name))
    assert [(await r).result for r in running] == list("abc")


async def test_tasks_wait_for_the_only_worker_to_come_back(scripted: list[Scripted]) -> None:
    pool = await started(1)
    before = await asked(pool, task("a"))
    scripted[0].die()
    after = await asked(pool, task("b"), task("c"))
    after[1].cancel()
    await asyncio.sleep(0)
    scripted[1].ready()
    assert scripted[1].tasks == ["a", "b"]
    for name in "ab":
        scripted[1].say(Outcome(name, result=name))
    assert (await before[0]).result == "a"
    assert (await after[0]).result == "b"


async def test_a_task_that_kills_its_workers_fails_alone(scripted: list[Scripted]) -> None:
    pool = await started(1)
    (poison,) = await asked(pool, task("poison"))
    for i in range(MAX_ATTEMPTS):
        assert scripted[i].tasks == ["poison"]
        scripted[i].die()
        scripted[i + 1].ready()
    outcome = await poison
    assert outcome.failure is not None
    assert outcome.failure.kind == "crashed"
    (good,) = await asked(pool, task("good"))
    scripted[-1].say(Outcome("good", result="good"))
    assert (await good).result == "good"


async def test_a_task_that_kills_its_workers_takes_no_other_along(scripted: list[Scripted]) -> None:
    pool = await started(1)
    running = await asked(pool, task("a"), task("poison"), task("b"))
    while not all(r.done() for r in running):
        worker = scripted[-1]
        if "poison" in worker.tasks:
            worker.die()
            scripted[-1].ready()
        else:
            for name in worker.tasks:
                worker.say(Outcome(name, result=name))
            for _ in range(5):
                await asyncio.sleep(0)
    outcomes = [await r for r in running]
    assert [outcome.result for outcome in outcomes] == ["a", None, "b"]
    assert outcomes[1].failure is not None


async def test_nobody_waits_for_workers_that_are_given_up(
    scripted: list[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await started(2, give_up_seconds=100)
    for worker in scripted[:2]:
        worker.die()
    (waiting,) = await asked(pool, task("a"))
    for _ in range(100):
        scripted[-1].die()
    assert not waiting.done(), "however many have died"
    clock = Clock(pool, monkeypatch)
    clock.run(99)
    assert not pool.given_up.is_set()
    clock.run(2)
    outcome = await asyncio.wait_for(waiting, 1)
    assert outcome.failure is not None
    assert outcome.failure.kind == "lost"
    assert pool.given_up.is_set()
    with pytest.raises(NoWorker):
        await ended(pool, task("b"))


async def test_before_the_start_and_after_the_end_there_is_no_worker(scripted: list[Scripted]) -> None:
    pool = Pool([WorkerSettings((), "cpu")])
    with pytest.raises(NoWorker):
        await ended(pool, task("a"))
    pool = await started(1)
    (running,) = await asked(pool, task("a"))
    await pool.close()
    assert scripted[-1].closed
    outcome = await running
    assert outcome.failure is not None
    with pytest.raises(NoWorker):
        await ended(pool, task("b"))


async def test_half_a_pool_serves_nothing(scripted: list[Scripted]) -> None:
    pool = Pool([WorkerSettings((), "cpu"), WorkerSettings((), "cpu")])
    starting = asyncio.create_task(pool.start())
    await asyncio.sleep(0)
    scripted[0].ready()
    with pytest.raises(NoWorker):
        await ended(pool, task("a"))
    scripted[1].ready()
    await starting
    await asked(pool, task("a"))
    assert scripted[0].tasks == ["a"]


@pytest.mark.parametrize("ends", ["broken", "dead"])
async def test_a_start_that_fails_says_why_and_starts_nothing_more(scripted: list[Scripted], ends: str) -> None:
    pool = Pool([WorkerSettings((), "cpu 0"), WorkerSettings((), "cpu 1")])
    starting = asyncio.create_task(pool.start())
    await asyncio.sleep(0)
    for handle in list(scripted):
        if ends == "broken":
            handle.say(Broken("model m: no such file"))
        handle.die()
    with pytest.raises(StartError, match="no such file" if ends == "broken" else "cpu 0 died while starting"):
        await starting
    assert len(scripted) == 2


SPECS = tuple(ModelSpec(name=name) for name in "abc")


async def starting(unavailable: dict[str, str] | None = None) -> tuple[Pool, "asyncio.Task[None]"]:
    """A pool of two workers, which are loading."""
    workers = [WorkerSettings(SPECS, "cpu"), WorkerSettings(SPECS, "cpu")]
    pool = Pool(workers, default="a", unavailable=unavailable)
    task = asyncio.create_task(pool.start())
    await asyncio.sleep(0)
    return pool, task


async def test_what_a_worker_cannot_load_is_served_by_none(
    scripted: list[Scripted], caplog: pytest.LogCaptureFixture
) -> None:
    pool, start = await starting({"d": "no such file: d"})
    assert "model d is not served: no such file: d" in caplog.text, "at once"
    scripted[0].ready_but("bc", a="no such recipe")
    assert not pool.cards
    scripted[1].ready_but("c", a="no such recipe", b="out of memory")
    await start
    assert (list(pool.cards), pool.cards.default) == (["c"], "a")
    reasons = {"d": "no such file: d", "a": "no such recipe", "b": "out of memory (in 1 of 2 workers)"}
    assert pool.cards.unavailable == reasons
    for name, reason in reasons.items():
        assert caplog.text.count(f"model {name} is not served: {reason}\n") == 1
    scripted[0].die()
    assert [spec.name for spec in scripted[2].settings.models] == ["c"], "a new worker keeps to it"
    assert scripted[2].settings.strict, "and does not begin with less"
    assert list(pool.cards) == ["c"]


async def test_a_model_that_kills_a_worker_is_left_out(
    scripted: list[Scripted], caplog: pytest.LogCaptureFixture
) -> None:
    pool, start = await starting()
    scripted[0].say(Loading("a"))
    scripted[0].say(Loading("b"))
    scripted[0].die()
    scripted[1].ready_but("abc")
    assert [spec.name for spec in scripted[2].settings.models] == ["a", "c"]
    scripted[2].ready_but("ac")
    await start
    assert list(pool.cards) == ["a", "c"]
    assert pool.cards.unavailable["b"] == (
        "the worker died while loading it (out of memory? a crash in its builder?); "
        "leave it out, or try it alone: --model b (in 1 of 2 workers)"
    )
    scripted[2].say(Loading("c"))
    scripted[2].die()
    assert "died while loading model c with 0 tasks" in caplog.text


async def test_where_models_kill_all_workers_or_one_is_enough_the_start_fails(scripted: list[Scripted]) -> None:
    for strict in (False, True):
        scripted.clear()
        pool = Pool([WorkerSettings(SPECS[:2], "cpu", strict=strict)])
        start = asyncio.create_task(pool.start())
        await asyncio.sleep(0)
        scripted[-1].say(Loading("a"))
        scripted[-1].die()
        if not strict:
            scripted[-1].say(Loading("b"))
            scripted[-1].die()
            scripted[-1].ready_but("")
        with pytest.raises(StartError, match=r"model a: the worker died while loading it .* --model a"):
            await start


async def test_the_start_fails_where_no_other_worker_can_be_started(scripted: list[Scripted]) -> None:
    _, start = await starting()
    scripted[0].say(Loading("b"))
    Scripted.refusing = True
    scripted[0].die()
    with pytest.raises(StartError, match="no new worker can be started on cpu: OSError: too many processes"):
        await asyncio.wait_for(start, 1)


async def test_where_no_model_is_loaded_by_all_the_start_fails(scripted: list[Scripted]) -> None:
    pool, start = await starting()
    scripted[0].ready_but("a", b="one reason", c="another")
    scripted[1].ready_but("b", a="a third", c="another")
    with pytest.raises(StartError) as caught:
        await start
    assert str(caught.value).splitlines() == [
        "model b: one reason (in 1 of 2 workers)",
        "model c: another",
        "model a: a third (in 1 of 2 workers)",
    ]
    assert not pool.cards


async def test_statistics_go_to_who_asked(scripted: list[Scripted]) -> None:
    ticks: list[Tick] = []
    await started(1, on_tick=ticks.append)
    scripted[0].say(Tick((), 3, 99))
    assert ticks == [Tick((), 3, 99)]
