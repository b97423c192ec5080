"""A pool's book-keeping, with workers that are told what to say and when to be lost."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gradserve_server.engine.events import PassStats
from gradserve_server.engine.timeline import TimedPass, Timeline
from gradserve_server.methods.explain.reporting import PartOfAnswer
from gradserve_server.models.served import ServedModels
from gradserve_server.pool import pool as module
from gradserve_server.pool.members import MIN_SHARE_LEFT
from gradserve_server.pool.placement import MAX_ATTEMPTS
from gradserve_server.pool.pool import NoWorker, Pool
from gradserve_server.pool.wire import Cancel, Held, Outcome, Preview, Task, Tick

from .scripted import CARD, SMALL, Scripted, ScriptedHub, asked, ended, results, started, task


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Hub", ScriptedHub)


async def test_tasks_go_where_the_least_is_outstanding() -> None:
    pool, workers = started(2)
    running = await asked(pool, task("a", 5), task("b", 2), task("c", 2), task("d", 2), task("e", 1))
    assert [worker.tasks for worker in workers] == [["a", "e"], ["b", "c", "d"]]
    assert pool.outstanding == 12
    for worker in workers:
        worker.answer(*worker.tasks)
    assert await results(running) == list("abcde")
    assert pool.outstanding == 0


async def test_a_faster_worker_gets_more() -> None:
    pool, workers = started(2)
    workers[0].ready(gflops=10)
    await asked(pool, *(task(name, 10) for name in "abcdefghijk"))
    assert len(workers[0].tasks) == 10


async def test_workers_on_one_device_get_the_same() -> None:
    pool, workers = started(2, devices="cpu")
    workers[0].ready(gflops=10)
    await asked(pool, *(task(name, 10) for name in "abcdefgh"))
    assert [len(each.tasks) for each in workers] == [4, 4]


async def test_a_task_goes_where_other_front_ends_have_less_outstanding() -> None:
    pool, workers = started(2)
    others = (Held("another", 1.0, "interactive", "m", "exact", alone=False, cost=30.0, done=10.0),)
    workers[0].say(Tick((), 1, 0, others=others))
    await asked(pool, task("a", 15), task("b", 15), task("c", 1))
    assert [worker.tasks for worker in workers] == [["c"], ["a", "b"]]
    assert pool.outstanding == 31, "that of others is theirs"
    load, _ = pool.members[0].loads()[::-1]
    assert (load.caller, load.seconds, load.begun) == ("another", 20.0, True)
    workers[0].say(Tick((), 1, 0))
    assert len(pool.members[0].loads()) == 1


async def test_a_small_model_says_nothing_about_the_speed_of_others() -> None:
    pool, workers = started(1)
    workers[0].ready(gflops=10)
    for _ in range(100):
        workers[0].say(Tick((PassStats("small", 8, 1.0, 1e-6),), 1, 0))
    (member,) = pool.members
    assert member.seconds(task("a", 100)) == 10
    assert member.seconds(task("c", 1e-6, "small")) == pytest.approx(1, rel=0.01)


async def test_a_cancelled_caller_cancels_the_task() -> None:
    pool, workers = started(1)
    (running,) = await asked(pool, task("a"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert workers[0].sent[-1] == Cancel("a")
    assert pool.outstanding == 0
    workers[0].say(Outcome("a"))


async def test_an_answered_task_is_not_cancelled() -> None:
    pool, workers = started(1)
    (running,) = await asked(pool, task("a"))
    workers[0].say(Outcome("a"))
    await running
    await asyncio.sleep(0)
    assert not [message for message in workers[0].sent if isinstance(message, Cancel)]


async def test_previews_come_before_the_outcome() -> None:
    pool, workers = started(1)

    async def listen() -> list[Any]:
        return [told async for told in pool.stream(task("a"))]

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0)
    for said in (Preview("a", 1, 2, {}), Preview("unknown", 1, 2, {}), Preview("a", 2, 2, {}), Outcome("a")):
        workers[0].say(said)
    assert [type(told).__name__ for told in await listening] == ["Preview", "Preview", "Outcome"]


async def test_of_a_map_that_is_not_finished_a_slow_caller_gets_the_newest_state() -> None:
    pool, workers = started(1)
    (member,) = pool.members

    def say(place: int, step: int, *, finished: bool = False) -> None:
        workers[0].say(Preview("a", step, 9, {}, answer=PartOfAnswer(place, None, finished)))

    stream = pool.stream(task("a"))
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    say(0, 1)
    assert await first == Preview("a", 1, 9, {}, answer=PartOfAnswer(0, None, False))
    for step in range(2, 500):
        say(0, step)
        say(1, step)
    assert len(member.pending["a"].replies) == 2
    say(0, 9, finished=True)
    say(2, 1, finished=True)
    workers[0].say(Preview("a", 3, 9, {}))
    workers[0].say(Preview("a", 4, 9, {}))
    say(1, 500)
    workers[0].say(Outcome("a"))
    read = [told async for told in stream]
    steps = [(told.answer and told.answer.place, told.step) for told in read if isinstance(told, Preview)]
    assert steps == [(0, 9), (2, 1), (None, 3), (None, 4), (1, 500)]
    assert read[-1] == Outcome("a")


async def test_a_worker_is_as_fast_as_its_passes_were_and_what_it_does_between_them() -> None:
    pool, workers = started(1)
    (member,) = pool.members
    for _ in range(100):
        workers[0].say(Tick((PassStats("m", rows=8, seconds=0.5, gflop=50.0),), 1, 0, busy=0.4))
    assert member.seconds(task("a", 100)) == pytest.approx(1)
    for _ in range(100):
        workers[0].say(Tick((PassStats("m", rows=8, seconds=0.5, gflop=50.0),), 1, 0, busy=1.0))
    assert member.seconds(task("a", 100)) == pytest.approx(2)


async def test_precisions_have_speeds_of_their_own() -> None:
    pool, workers = started(1)
    (member,) = pool.members
    member.speeds = {("m", "exact"): 1.0, ("m", "fast"): 1.0}
    for _ in range(100):
        workers[0].say(Tick((PassStats("m", 8, 0.5, 50.0, precision="fast"),), 1, 0))
    assert member.seconds(task("a", 100)) == 100
    assert member.seconds(replace(task("a", 100), precision="fast")) == pytest.approx(1)
    assert not member.knows(replace(task("a"), precision="balanced"))


async def test_what_is_done_of_a_task_is_not_outstanding() -> None:
    pool, workers = started(1)
    await asked(pool, task("a", 30), task("b", 10))
    workers[0].say(Tick((), 2, 0, progress={"a": 20.0}))
    first, second = pool.members[0].loads()
    assert (first.seconds, first.begun) == (pytest.approx(10), True)
    assert (second.seconds, second.begun) == (10, False)
    workers[0].say(Tick((), 2, 0, progress={"a": 90.0}))
    assert pool.members[0].loads()[0].seconds == pytest.approx(30 * MIN_SHARE_LEFT)


async def test_the_tasks_of_a_lost_worker_run_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    pool, workers = started(2)
    running = await asked(pool, task("a", 1), task("b", 9), task("c", 1))
    assert workers[0].tasks == ["a", "c"]
    pool.changed.clear()
    workers[0].die()
    assert pool.changed.is_set(), "the health is told"
    assert "the worker on cuda:0 (process 0) is lost; its 2 tasks run elsewhere" in caplog.text
    assert workers[1].tasks == ["b", "a", "c"]
    workers[0].say(Outcome("a", result="from the dead"))
    workers[1].answer(*"abc")
    assert await results(running) == list("abc")


async def test_a_worker_that_lost_the_connection_gets_its_tasks_again() -> None:
    """It drops them when it loses the connection, which the front-end may not have noticed."""
    pool, workers = started(1)
    running = await asked(pool, task("a"))
    workers[0].ready()
    assert workers[0].tasks == ["a", "a"]
    assert len(pool.members) == 1
    workers[0].answer("a")
    assert await results(running) == ["a"]


async def test_tasks_wait_for_a_worker() -> None:
    pool, workers = started(1)
    before = await asked(pool, task("a"))
    workers[0].die()
    assert pool.members == []
    after = await asked(pool, task("b"), task("c"))
    after[1].cancel()
    await asyncio.sleep(0)
    successor = Scripted(pool, 1)
    successor.ready()
    assert successor.tasks == ["a", "b"]
    successor.answer(*"ab")
    assert await results([*before, after[0]]) == ["a", "b"]


async def test_a_task_that_kills_its_workers_fails_alone() -> None:
    pool, workers = started(1)
    (poison,) = await asked(pool, task("poison"))
    worker = workers[0]
    for i in range(MAX_ATTEMPTS):
        assert worker.tasks == ["poison"]
        worker.die()
        worker = Scripted(pool, i + 1)
        worker.ready()
    outcome = await poison
    assert outcome.failure is not None
    assert outcome.failure.kind == "crashed"
    (good,) = await asked(pool, task("good"))
    worker.answer("good")
    assert (await good).result == "good"


async def test_a_task_that_kills_its_workers_takes_no_other_along() -> None:
    pool, (worker,) = started(1)
    running = await asked(pool, task("a"), task("poison"), task("b"))
    for i in range(1, 100):
        if "poison" in worker.tasks:
            worker.die()
            worker = Scripted(pool, i)
            worker.ready()
        else:
            worker.answer(*worker.tasks)
            for _ in range(5):
                await asyncio.sleep(0)
        if all(r.done() for r in running):
            break
    outcomes = [await r for r in running]
    assert [outcome.result for outcome in outcomes] == ["a", None, "b"]
    assert outcomes[1].failure is not None


async def test_at_the_end_no_task_is_left_without_an_answer() -> None:
    """Of those that run, wait for a worker, or wait for another task that has lost two workers too."""
    pool, (worker,) = started(1)
    running = await asked(pool, task("a"), task("b"))
    for i in range(1, MAX_ATTEMPTS):
        worker.die()
        worker = Scripted(pool, i)
        worker.ready()
    assert worker.tasks == ["a"], "b waits until a has ended"
    running += await asked(pool, task("c"))
    worker.die()
    running += await asked(pool, task("d"))
    pool.end_tasks("the end")
    async with asyncio.timeout(1):
        outcomes = [await each for each in running]
    assert [outcome.failure and outcome.failure.kind for outcome in outcomes] == ["crashed", "lost", "lost", "lost"]
    assert outcomes[-1].failure is not None
    assert outcomes[-1].failure.text == "the end"
    with pytest.raises(NoWorker):
        await ended(pool, task("e"))


async def test_before_the_start_and_after_the_end_there_is_no_worker() -> None:
    pool = Pool([])
    Scripted(pool, 0).ready()
    with pytest.raises(NoWorker):
        await ended(pool, task("a"))
    pool, _ = started(1)
    (running,) = await asked(pool, task("a"))
    pool.close()
    assert pool._hub.closed  # type: ignore[attr-defined]
    outcome = await running
    assert outcome.failure is not None
    with pytest.raises(NoWorker):
        await ended(pool, task("b"))


OTHER = SimpleNamespace(
    name="m", digest="of another network", index_digest="", pictures_digest="", sample=(), gflop=1.0
)
REBUILT = SimpleNamespace(
    name="m", digest="", index_digest="of another index", pictures_digest="", sample=(), gflop=1.0
)


@pytest.mark.parametrize("before", [False, True], ids=["after the start", "before the start"])
@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"cards": [OTHER]}, "model m: its weights are not those of the other processes"),
        ({"cards": [REBUILT]}, "model m: its influence index has changed since it was loaded; reload the model"),
        ({"cards": []}, "model m: it has not loaded it"),
        ({"version": "0.0.1"}, "it has version 0.0.1, and this server has"),
    ],
)
async def test_a_worker_with_another_network_or_version_gets_no_tasks(
    facts: dict[str, Any], reason: str, before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = Pool([])
    odd = Scripted(pool, 0)
    if before:
        odd.ready(**facts)
    pool.serve(ServedModels([CARD]))
    odd.ready(**facts)
    odd.ready(**facts)
    assert pool.members == []
    assert caplog.text.count(f"worker worker-0 gets no tasks: {reason}") == 1
    right = Scripted(pool, 1)
    right.ready()
    await asked(pool, task("a"))
    assert right.tasks == ["a"]


@pytest.mark.parametrize("behind", [-3600.0, 0.0, 3600.0])
async def test_times_are_sent_by_the_clock_of_the_worker(behind: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5000.0
    monkeypatch.setattr("gradserve_server.pool.members.time", SimpleNamespace(monotonic=lambda: now))
    pool = Pool([])
    pool.serve(ServedModels([CARD]))
    worker = Scripted(pool, 0)
    worker.ready(sent=now - behind - 0.5)  # This message took half a second.
    worker.say(Tick((), 0, 0, sent=now - behind - 0.01))
    worker.say(Tick((), 0, 0, sent=now - behind - 2.0))
    await asked(pool, replace(task("a"), arrived=4999.0, deadline=5003.0), task("b"))
    first, second = worker.sent
    assert first.arrived == pytest.approx(4999.0 - behind - 0.01)
    assert first.deadline == pytest.approx(5003.0 - behind - 0.01)
    assert second.deadline == float("inf")


def of(generation: int, name: str) -> Task:
    return replace(task(name), generation=generation)


async def test_tasks_run_on_the_workers_of_their_generation_alone() -> None:
    pool, (old, new) = started(2)
    new.ready(generation=1)
    running = await asked(pool, of(0, "a"), of(0, "b"))
    assert (old.tasks, new.tasks) == (["a", "b"], [])
    pool.serve(ServedModels([CARD], generation=1))
    running += await asked(pool, of(1, "c"), of(0, "d"))
    assert (old.tasks, new.tasks) == (["a", "b", "d"], ["c"])
    assert [member.pid for member in pool.members] == [new.number], "requests from now on go there"
    old.answer("a", "b", "d")
    new.answer("c")
    assert await results(running) == list("abcd")


async def test_other_models_are_served_once_a_worker_has_them() -> None:
    pool, (old,) = started(1)
    pool.serve(ServedModels([CARD, SMALL], generation=1))
    assert (list(pool.cards), pool.cards.generation) == (["m"], 0)
    new = Scripted(pool, 1)
    new.ready(generation=1)
    assert (list(pool.cards), pool.cards.generation) == (["m", "small"], 1)
    new.die()
    await asked(pool, of(1, "a"))
    assert old.tasks == [], "it waits for a worker of its generation"
    new.ready(generation=1)
    assert new.tasks == ["a"]


async def test_a_successor_is_taken_to_be_as_fast_as_the_workers_of_its_device() -> None:
    pool, (old,) = started(1, devices="cpu")
    old.ready(gflops=10)
    Scripted(pool, 1).ready(gflops=1, generation=1)
    Scripted(pool, 2, device="cuda:0").ready(gflops=2, generation=1)
    pool.serve(ServedModels([CARD], generation=1))
    assert {member.device: member.speeds["m", "exact"] for member in pool.members} == {"cpu": 10.0, "cuda:0": 2.0}


async def test_a_generation_is_needed_until_its_last_request_has_ended() -> None:
    pool, _ = started(1)
    with pool.using() as models, pool.using():
        Scripted(pool, 1).ready(generation=1)
        pool.serve(ServedModels([CARD], generation=1))
        assert (models.generation, pool.cards.generation, pool.oldest) == (0, 1, 0)
        with pool.using() as later:
            assert later.generation == 1
        pool.changed.clear()
        assert pool.oldest == 0
    assert pool.oldest == 1
    assert pool.changed.is_set()


async def test_where_the_replaced_workers_died_their_requests_are_told_at_once() -> None:
    pool, (old,) = started(1)
    running = await asked(pool, of(0, "a"))
    Scripted(pool, 1).ready(generation=1)
    pool.serve(ServedModels([CARD], generation=1))
    old.die()
    running += await asked(pool, of(0, "b"))
    async with asyncio.timeout(1):
        failures = [(await each).failure for each in running]
    assert [failure and failure.kind for failure in failures] == ["lost", "lost"]
    assert failures[0] is not None
    assert "was replaced" in failures[0].text


@pytest.mark.parametrize("behind", [-3600.0, 0.0, 3600.0])
async def test_timelines_are_told_by_the_clock_of_the_front_end(behind: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5000.0
    monkeypatch.setattr("gradserve_server.pool.members.time", SimpleNamespace(monotonic=lambda: now))
    pool = Pool([])
    pool.serve(ServedModels([CARD]))
    worker = Scripted(pool, 0)
    worker.ready(sent=now - behind - 0.5)
    (running,) = await asked(pool, task("a"))
    timed = TimedPass(4990.0 - behind, 2.0, 1, 0, "m", "exact")
    timeline = Timeline(4990.0 - behind, now - behind - 0.01, [timed])  # This message took less time than the first.
    worker.say(Outcome("a", timeline=timeline))
    told = (await running).timeline
    assert told is not None
    assert told.started == pytest.approx(4990.01)
    assert told.ended == pytest.approx(now)
    assert told.passes[0].begun == pytest.approx(4990.01)
    assert told.passes[0].seconds == 2.0


async def test_where_the_workers_died_before_they_were_replaced_their_requests_are_told_too() -> None:
    """Also one in its last attempt, for which others in theirs would wait."""
    pool, (old,) = started(1)
    with pool.using():
        running = await asked(pool, of(0, "a"))
        for number in range(1, MAX_ATTEMPTS):
            old.die()
            if number < MAX_ATTEMPTS - 1:
                old.ready()
        running += await asked(pool, of(0, "b"))
        Scripted(pool, 1).ready(generation=1)
        pool.serve(ServedModels([CARD], generation=1))
        async with asyncio.timeout(1):
            failures = [(await each).failure for each in running]
    assert [failure and failure.kind for failure in failures] == ["lost", "lost"]
