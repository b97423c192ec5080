"""Workers that are silent, stuck or cannot be started, as the pool sees them; they do as they are told."""

import asyncio

import pytest

from gradserve_server.pool import restarts, watchdog
from gradserve_server.pool.placement import MAX_ATTEMPTS, MAX_MOVES
from gradserve_server.pool.wire import Beat, Cancel, Outcome

from .scripted import Clock, Scripted, asked, started, task

pytestmark = pytest.mark.usefixtures("scripted")


async def answers(running: list["asyncio.Task[Outcome]"]) -> list[str]:
    async with asyncio.timeout(1):
        return [(await each).result for each in running]


async def test_the_tasks_of_a_silent_worker_go_to_others(
    scripted: list[Scripted], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    silences: list[int] = []
    pool = await started(2, on_silent=lambda: silences.append(1))
    clock = Clock(pool, monkeypatch)
    running = await asked(pool, task("a"), task("b"), task("c"))
    assert [worker.tasks for worker in scripted] == [["a", "c"], ["b"]]
    clock.run(3.5, scripted[1])
    assert scripted[1].tasks == ["b"], "a heartbeat may be late"
    clock.run(1, scripted[1])
    assert scripted[1].tasks == ["b", "a", "c"]
    assert scripted[0].sent[2:] == [Cancel("a"), Cancel("c")], "it reads them when it runs again"
    assert silences == [1]
    assert "(process 0) is silent and gets no tasks until it speaks again; of its 2 tasks 2 go to others" in caplog.text
    running += await asked(pool, task("d"))
    clock.run(20, scripted[1])
    assert scripted[1].tasks == ["b", "a", "c", "d"]
    assert not scripted[0].killed
    assert len(scripted) == 2

    scripted[0].say(Outcome("a", result="late"))
    assert len(pool.members) == 2, "it has spoken"
    assert not running[0].done(), "its late answer is to no task of its own"
    running += await asked(pool, task("e"))
    assert scripted[0].tasks == ["a", "c", "e"]
    for name in "abcd":
        scripted[1].say(Outcome(name, result=name))
    scripted[0].say(Outcome("e", result="e"))
    assert await answers(running) == list("abcde")
    assert silences == [1]


async def test_where_all_are_silent_their_tasks_wait_for_the_first_to_speak(
    scripted: list[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await started(2)
    clock = Clock(pool, monkeypatch)
    running = await asked(pool, task("a"), task("b"))
    pool.changed.clear()
    clock.run(10)
    assert pool.members == []
    assert pool.changed.is_set(), "the health is told"
    running += await asked(pool, task("c"))
    assert [worker.tasks for worker in scripted] == [["a"], ["b"]]
    pool.changed.clear()
    scripted[1].say(Beat())
    assert pool.changed.is_set()
    assert scripted[1].tasks == ["b", "c", "a"]
    assert Cancel("b") not in scripted[1].sent, "it goes on with its own"
    for name in "abc":
        scripted[1].say(Outcome(name, result=name))
    assert await answers(running) == list("abc")


async def test_a_task_is_not_handed_round_for_ever(scripted: list[Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass may keep any worker from speaking for some seconds: then it must come to its end on one of them."""
    pool = await started(2)
    clock = Clock(pool, monkeypatch)
    running = await asked(pool, task("a"))
    for turn in range(MAX_MOVES + 1):
        clock.run(5, scripted[(turn + 1) % 2])
        scripted[turn % 2].say(Beat())
    assert [worker.tasks for worker in scripted] == [["a", "a"], ["a"]]
    scripted[0].say(Outcome("a", result="a"))
    assert await answers(running) == ["a"]


async def test_a_worker_that_stays_silent_is_replaced(
    scripted: list[Scripted], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool = await started(1)
    clock = Clock(pool, monkeypatch)
    running = await asked(pool, task("a"))
    clock.run(59)
    assert not scripted[0].killed
    clock.run(2)
    assert scripted[0].killed
    assert "(process 0) has been silent for 60 s: it is killed" in caplog.text
    scripted[0].die()
    scripted[0].say(Outcome("a", result="from the dead"))
    assert len(scripted) == 2, "its end is no second death"
    scripted[1].ready()
    assert scripted[1].tasks == ["a"]
    scripted[1].say(Outcome("a", result="a"))
    assert await answers(running) == ["a"]


async def test_a_worker_in_a_stuck_pass_is_replaced(
    scripted: list[Scripted], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool = await started(1)
    clock = Clock(pool, monkeypatch)
    (poison,) = await asked(pool, task("poison"))
    for i in range(MAX_ATTEMPTS):
        assert scripted[i].tasks == ["poison"]
        clock.run(5, scripted[i], pass_seconds=60, expected=60)
        assert not scripted[i].killed, "a pass of a minute is legal"
        clock.run(0.5, scripted[i], pass_seconds=130, expected=0.5)
        assert scripted[i].killed
        scripted[i + 1].ready()
    outcome = await asyncio.wait_for(poison, 1)
    assert outcome.failure is not None
    assert outcome.failure.kind == "crashed"
    assert "(process 0) has run a pass for 130 s (0.5 s were expected): it is killed" in caplog.text


async def test_silence_says_nothing_while_the_front_end_does_not_run(
    scripted: list[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await started(2, give_up_seconds=10)
    clock = Clock(pool, monkeypatch)
    await asked(pool, task("a"))
    clock.stop(3600)
    assert len(pool.members) == 2
    clock.run(3.5)
    assert len(pool.members) == 2
    clock.run(1)
    assert pool.members == []
    clock.stop(3600)
    assert not pool.given_up.is_set()
    assert not scripted[0].killed
    clock.run(10)
    assert pool.given_up.is_set()


async def test_tasks_go_to_others_also_where_no_successor_can_be_started(
    scripted: list[Scripted], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(restarts, "FIRST_PAUSE_SECONDS", 0.5)
    started_again: list[int] = []
    pool = await started(2, on_restart=lambda: started_again.append(1))
    clock = Clock(pool, monkeypatch)
    running = await asked(pool, task("a"), task("b"))
    Scripted.refusing = True
    scripted[0].die()
    assert scripted[1].tasks == ["b", "a"]
    assert "no new worker can be started on cuda:0 (OSError: too many processes); next try in 0." in caplog.text
    clock.run(20, scripted[1])
    assert 4 <= caplog.text.count("too many processes") <= 8, "pauses grow"
    assert pool.pids == [1]
    scripted[1].die()
    running += await asked(pool, task("c"))
    assert pool.members == []
    Scripted.refusing = False
    clock.run(31)
    for worker in scripted[2:]:
        worker.ready()
    assert started_again == [1, 1]
    for worker in scripted[2:]:
        for name in worker.tasks:
            worker.say(Outcome(name, result=name))
    assert await answers(running) == list("abc")


async def test_workers_that_die_while_loading_are_started_after_growing_pauses(
    scripted: list[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "FIRST_PAUSE_SECONDS", 0.5)
    pool = await started(2)
    clock = Clock(pool, monkeypatch)
    scripted[0].die()
    count = 0
    for _ in range(120):
        clock.run(0.5, scripted[1])
        if scripted[-1] is not scripted[1] and pool.pids[0] == scripted[-1].pid:
            scripted[-1].die()
            count += 1
    assert 6 <= count <= 10, "in a minute"
    assert len(pool.members) == 1
    assert not pool.given_up.is_set()


async def test_a_look_that_fails_is_not_the_last_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "CHECK_SECONDS", 0.001)
    pool = await started(1)
    looks: list[float] = []

    def check(now: float) -> bool:
        looks.append(now)
        if len(looks) == 1:
            raise ArithmeticError("a fault of ours")
        return len(looks) == 3

    monkeypatch.setattr(pool._supervisor, "check", check)
    assert pool._supervision is not None
    await asyncio.wait_for(pool._supervision, 10)
    assert len(looks) == 3
    assert "ArithmeticError: a fault of ours" in caplog.text


async def test_at_the_end_no_task_is_left_without_an_answer(scripted: list[Scripted]) -> None:
    """Of those that run, wait for a worker, or wait for another task that has lost two workers too."""
    pool = await started(1)
    running = await asked(pool, task("a"), task("b"))
    for i in range(MAX_ATTEMPTS - 1):
        scripted[i].die()
        scripted[i + 1].ready()
    assert scripted[-1].tasks == ["a"], "b waits until a has ended"
    running += await asked(pool, task("c"))
    scripted[-1].die()
    running += await asked(pool, task("d"))
    await pool.close()
    async with asyncio.timeout(1):
        outcomes = [await each for each in running]
    assert [outcome.failure and outcome.failure.kind for outcome in outcomes] == ["crashed", "lost", "lost", "lost"]
