"""Whose pictures are decoded next."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from gradserve_server.api.admission.callers import Caller
from gradserve_server.api.admission.fair_threads import FairThreads

WORK_SECONDS = 0.004  # Of a call, much longer than what threads and the loop take for it.
MANY, FEW = Caller("many", 1.0), Caller("few", 1.0)


def threads(count: int = 1) -> FairThreads:
    return FairThreads(count, "test")


async def test_a_caller_with_few_does_not_wait_for_one_with_many() -> None:
    shared, order, all_asked = threads(), list[str](), threading.Event()

    def work(name: str) -> None:
        all_asked.wait(60)
        time.sleep(WORK_SECONDS)
        order.append(name)

    flood = [asyncio.create_task(shared.run(MANY, work, "many")) for _ in range(30)]
    await asyncio.sleep(0.02)
    few = [asyncio.create_task(shared.run(FEW, work, "few")) for _ in range(3)]
    await asyncio.sleep(0)  # They have asked, but the first of the flood still holds the thread.
    all_asked.set()
    await asyncio.gather(*flood, *few)
    begun = order.index("few")
    assert order[begun : begun + 8].count("few") == 3, "they take turns from then on"
    assert begun < 10


async def test_a_heavier_weight_gives_more_turns() -> None:
    shared, order, all_asked = threads(), list[str](), threading.Event()

    def work(name: str) -> None:
        all_asked.wait(60)
        time.sleep(WORK_SECONDS)
        order.append(name)

    callers = [Caller("heavy", 3.0), Caller("light", 1.0)]
    runs = [asyncio.create_task(shared.run(caller, work, caller.name)) for _ in range(20) for caller in callers]
    await asyncio.sleep(0)
    all_asked.set()
    await asyncio.gather(*runs)
    assert order[:20].count("heavy") >= 12


async def test_results_and_errors_come_back() -> None:
    shared = threads(2)
    assert await asyncio.gather(*(shared.run(MANY, pow, 2, power) for power in range(20))) == [2**p for p in range(20)]
    with pytest.raises(ZeroDivisionError):
        await shared.run(FEW, lambda: 1 / 0)


@pytest.mark.parametrize("cancelled", [range(1, 10), range(20)], ids=["some", "all"])
async def test_callers_that_go_away_leave_their_places(cancelled: range) -> None:
    shared, done = threads(), list[int]()
    work: Callable[[int], None] = lambda number: (time.sleep(0.005), done.append(number))[1]  # noqa: E731
    tasks = [asyncio.create_task(shared.run(MANY, work, number)) for number in range(20)]
    await asyncio.sleep(0.002)
    for number in cancelled:
        tasks[number].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(60):
        await asyncio.gather(*(shared.run(FEW, work, number) for number in range(100, 110)))
    assert set(range(100, 110)) <= set(done)
    assert set(range(20)) - set(cancelled) <= set(done)


async def test_a_function_that_ends_with_stop_iteration_ends() -> None:
    """A future cannot take this exception: without care whoever awaits it would wait for ever."""
    shared = threads()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(shared.run(FEW, next, iter(())), 60)
    assert await asyncio.wait_for(shared.run(FEW, len, "abc"), 60) == 3


async def test_a_caller_with_none_running_waits_for_no_long_call_of_another() -> None:
    shared, ending = threads(), threading.Event()
    long = [asyncio.create_task(shared.run(MANY, ending.wait, 60)) for _ in range(10)]
    try:
        await asyncio.sleep(0.02)
        for _ in range(5):
            assert await asyncio.wait_for(shared.run(FEW, pow, 2, 3), 30) == 8
    finally:
        ending.set()
    assert all(await asyncio.gather(*long))


async def test_a_call_that_is_cancelled_counts() -> None:
    shared, ending = threads(), threading.Event()
    cancelled = [asyncio.create_task(shared.run(MANY, ending.wait, 60)) for _ in range(2)]
    await asyncio.sleep(0.2)
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
    assert shared._turns.had("many") > 0.15
    ending.set()


async def test_a_call_that_is_cancelled_keeps_its_place_while_its_thread_is_busy() -> None:
    shared, ending = threads(), threading.Event()
    cancelled = asyncio.create_task(shared.run(MANY, ending.wait, 60))
    await asyncio.sleep(0.1)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    try:
        assert await asyncio.wait_for(shared.run(FEW, pow, 2, 3), 30) == 8, "a spare thread takes it"
    finally:
        ending.set()
    async with asyncio.timeout(60):
        while shared._calls:
            await asyncio.sleep(0.01)
