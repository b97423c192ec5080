"""Threads that callers share: of the calls that wait for one, the caller's is next who has had the least time."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ...engine.turns import Turns
from .callers import Caller

T = TypeVar("T")


class FairThreads:
    """Runs functions in threads. Its methods may be called on one event loop's thread alone."""

    def __init__(self, threads: int, name: str, initializer: Callable[[], None]) -> None:
        """`initializer` is called in each thread first."""
        self._executor = ThreadPoolExecutor(threads, name, initializer)
        self._places = threads + 1  # One call is ready beside those that run, so that no thread waits for the loop.
        self._turns = Turns()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def run(self, caller: Caller, function: Callable[..., T], *args: object) -> T:
        """What the function returns or raises; the seconds that it takes count for the caller."""
        seconds = 0.0

        def timed() -> T:
            nonlocal seconds
            begun = time.monotonic()
            try:
                return function(*args)
            except StopIteration as error:  # A future cannot take it, and whoever awaits that would wait for ever.
                raise RuntimeError("a function ended with StopIteration") from error
            finally:
                seconds = time.monotonic() - begun

        await self._turn(caller.name)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, timed)
        finally:
            self._turns.charge(caller.name, seconds / caller.weight)
            self._give_place()

    async def _turn(self, name: str) -> None:
        """Returns when it is the caller's turn and there is a place."""
        if self._places:
            self._places -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # It had its place already.
                self._give_place()
            raise

    def _give_place(self) -> None:
        """Gives a place that is free to the next caller that waits."""
        while self._waiting:
            name = min(self._waiting, key=self._turns.had)
            turn = self._waiting[name].popleft()
            if not self._waiting[name]:
                del self._waiting[name]
            if not turn.done():  # Those whose callers went away are cancelled.
                turn.set_result(None)
                return
        self._places += 1
