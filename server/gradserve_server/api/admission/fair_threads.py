"""Threads that callers share: of the calls that wait for one, the caller's is next who has had the least time.

They run after the event loop's thread, which must go on refusing meanwhile. Some are spare: they take calls of callers
who have none running and had the least time, who so wait for no long call of another.
"""

import asyncio
import os
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ...engine.turns import Turns
from .callers import Caller

T = TypeVar("T")
SPARE_THREADS = 2
NICENESS = 7


class _Call:
    """A call that has a place: when it began, 0 before, and the seconds that it took, 0 until its end."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.begun = self.seconds = 0.0

    def run(self, function: Callable[..., T], *args: object) -> T:
        self.begun = time.monotonic()
        try:
            return function(*args)
        except StopIteration as error:  # A future cannot take it, and whoever awaits that would wait for ever.
            raise RuntimeError("a function ended with StopIteration") from error
        finally:
            self.seconds = time.monotonic() - self.begun

    @property
    def so_far(self) -> float:
        """The seconds that it has taken, divided by the caller's weight."""
        return (self.seconds or (self.begun and time.monotonic() - self.begun)) / self.caller.weight


class FairThreads:
    """Runs functions in threads. Its methods may be called on one event loop's thread alone."""

    def __init__(self, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads + SPARE_THREADS, name, _give_way)
        all_begun = threading.Barrier(threads + SPARE_THREADS)
        for _ in range(threads + SPARE_THREADS):  # By itself the executor starts threads as they are needed first.
            self._executor.submit(all_begun.wait)
        self._places = threads + 1  # One call is ready beside those that run, so that no thread waits for the loop.
        self._calls: list[_Call] = []  # Those that have a place.
        self._turns = Turns()
        self._waiting: dict[str, deque[tuple[asyncio.Future[None], _Call]]] = {}

    async def run(self, caller: Caller, function: Callable[..., T], *args: object) -> T:
        """What the function returns or raises; the seconds that it takes count for the caller."""
        call = await self._place(caller)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call.run, function, *args)
        finally:
            self._turns.charge(caller.name, call.so_far)  # What was cancelled counts too, until then.
            self._leave(call)

    async def _place(self, caller: Caller) -> _Call:
        """Returns when it is the caller's turn and there is a place for its call."""
        call = _Call(caller)
        if self._may_run(caller.name):
            self._calls.append(call)
            return call
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller.name, deque()).append((turn, call))
        try:
            await turn
        except asyncio.CancelledError:
            if call in self._calls:  # It had its place already.
                self._leave(call)
            raise
        return call

    def _may_run(self, name: str) -> bool:
        """Whether there is a place for a call of that caller: a spare one only if those who run had as much time."""
        running = defaultdict[str, float](float)
        for call in self._calls:
            running[call.caller.name] += call.so_far
        if len(self._calls) < self._places or name in running:
            return len(self._calls) < self._places
        behind = all(self._turns.had(name) <= self._turns.had(other) + so_far for other, so_far in running.items())
        return behind and len(self._calls) < self._places + SPARE_THREADS

    def _leave(self, call: _Call) -> None:
        """Takes the place from a call, and gives what is free to the next callers that wait."""
        self._calls.remove(call)
        while able := [name for name in self._waiting if self._may_run(name)]:
            name = min(able, key=self._turns.had)
            turn, following = self._waiting[name].popleft()
            if not self._waiting[name]:
                del self._waiting[name]
            if not turn.done():  # Those whose callers went away are cancelled.
                self._calls.append(following)
                turn.set_result(None)


def _give_way() -> None:
    """Lets this thread run after those of the usual priority."""
    if hasattr(os, "setpriority") and sys.platform == "linux":  # Elsewhere priorities are those of whole processes.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
