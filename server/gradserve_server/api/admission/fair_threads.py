"""Threads that callers share fairly: the next call to run is that of the waiting caller who has had the least time.

They have a lower priority than the event loop's thread, which must be able to refuse requests meanwhile. Some of them
are spare: they run only calls of callers who have none running and have had no more time than those who do, so that
such a caller need not wait for another's long call.
"""

import asyncio
import os
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

from ...engine.turns import Turns
from .callers import Caller

T = TypeVar("T")
SPARE_THREADS = 2
NICENESS = 7


class _Call:
    """One call of a function: when it began (monotonic clock; 0 before), and its seconds (0 until its end)."""

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
        self._threads = threads
        self._usual, self._spare = _started(threads, name), _started(SPARE_THREADS, f"spare-{name}")
        self._calls: dict[_Call, ThreadPoolExecutor] = {}  # The calls that have a place, and in which threads.
        self._turns = Turns()
        self._waiting: dict[str, deque[tuple[asyncio.Future[None], _Call]]] = {}

    async def run(self, caller: Caller, function: Callable[..., T], *args: object) -> T:
        """What the function returns or raises; the seconds that it takes count for the caller."""
        call = await self._place(caller)
        future = self._calls[call].submit(call.run, function, *args)
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._turns.charge(caller.name, call.so_far)  # A call that was cancelled counts too, with its time so far.
            if future.done():
                self._leave(call)
            else:  # It was cancelled, and its thread goes on with it.
                future.add_done_callback(partial(self._leave_later, asyncio.get_running_loop(), call))

    async def _place(self, caller: Caller) -> _Call:
        """Returns when it is the caller's turn and there is a place for its call."""
        call = _Call(caller)
        if (place := self._free(caller.name)) is not None:
            self._calls[call] = place
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

    def _free(self, name: str) -> ThreadPoolExecutor | None:
        """The threads that have a place for a call of that caller, if any have; see above for the spare ones."""
        places = list(self._calls.values())
        usual = places.count(self._usual)
        if usual < self._threads:
            return self._usual
        if len(places) - usual < SPARE_THREADS and all(call.caller.name != name for call in self._calls):
            running, had = defaultdict[str, float](float), self._turns.had(name)
            for call in self._calls:
                running[call.caller.name] += call.so_far
            if all(had <= self._turns.had(other) + so_far for other, so_far in running.items()):
                return self._spare
        # One more call than there are threads has a place: a thread that becomes free need not wait for the event loop.
        return self._usual if usual == self._threads else None

    def _leave_later(self, loop: asyncio.AbstractEventLoop, call: _Call, _: object) -> None:
        """Takes the place from a call, in the loop; its own thread may ask for that."""
        with suppress(RuntimeError):  # The loop has ended meanwhile.
            loop.call_soon_threadsafe(self._leave, call)

    def _leave(self, call: _Call) -> None:
        """Takes the place from a call, and gives what is free to the next callers that wait."""
        del self._calls[call]
        while able := {name: place for name in self._waiting if (place := self._free(name)) is not None}:
            name = min(able, key=self._turns.had)
            turn, following = self._waiting[name].popleft()
            if not self._waiting[name]:
                del self._waiting[name]
            if not turn.done():  # Those whose callers went away are cancelled.
                self._calls[following] = able[name]
                turn.set_result(None)


def _started(threads: int, name: str) -> ThreadPoolExecutor:
    """An executor whose threads run already: by itself it starts each when it is needed first."""
    executor, all_begun = ThreadPoolExecutor(threads, name, _give_way), threading.Barrier(threads)
    for _ in range(threads):
        executor.submit(all_begun.wait)
    return executor


def _give_way() -> None:
    """Lets this thread run after those of the usual priority."""
    if hasattr(os, "setpriority") and sys.platform == "linux":  # Elsewhere priorities are those of whole processes.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
