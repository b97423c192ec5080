"""The front-ends that the keeper keeps running, and how they end."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from ..config import StartError
from ..metrics import Metrics
from ..pool.wire import Broken, CutOff, Drain, Hello, Serve, Serving
from .kept import Kept
from .processes import Process

log = logging.getLogger(__name__)

SWITCH_SECONDS = 30.0  # Longest wait for front-ends that are told to serve other models.
NOTHING = Serving(-1, -1)  # What a front-end serves that does not listen yet.
FLUSH_SECONDS = 3.0  # What a front-end may take beyond the time in which its requests may end.


def place_of(index: int) -> str:
    """The name of a front-end in the names of the files of its counters."""
    return f"front-end-{index}"


class KeptFrontEnd(Kept):
    """One front-end's place. It has the same address for workers again when it is started again."""

    def __init__(self, index: int) -> None:
        super().__init__(f"front-end {index}")
        self.index = index
        self.connected = False
        self.serving = NOTHING


class FrontEnds:
    """All front-ends of a server. `start` starts the process of one, and `send` sends messages to a name."""

    def __init__(
        self,
        count: int,
        start: Callable[[int, bytes], Awaitable[Process]],
        send: Callable[[bytes, Sequence[object]], None],
        metrics: Metrics,
    ) -> None:
        self._all = [KeptFrontEnd(index) for index in range(count)]
        self._start, self._send, self._metrics = start, send, metrics
        self._serve: Serve | None = None
        self._drain: Drain | None = None
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._moved = asyncio.Event()  # Set when one tells what it serves.

    @property
    def running(self) -> list[KeptFrontEnd]:
        """Those whose process runs."""
        return [each for each in self._all if each.process is not None]

    @property
    def serving(self) -> int:
        """How many of them listen and are heard."""
        return sum(each.ready_since is not None and not each.gone.is_set() for each in self.running)

    def start(self) -> None:
        """Starts their processes, which serve nothing yet."""
        for each in self._all:
            each.keep(self)

    async def serve(self, message: Serve) -> None:
        """Lets all of them listen, with these models; returns when they do. Raises StartError."""
        self._tell(message)
        await self.wait()

    async def switch(self, message: Serve) -> None:
        """Lets all of them serve other models; returns when they do, or after SWITCH_SECONDS."""
        self._tell(message)
        with suppress(TimeoutError):
            async with asyncio.timeout(SWITCH_SECONDS):
                await self._until(lambda serving: serving.newest >= message.generation)

    async def leave(self, generation: int) -> None:
        """Returns when none has requests any more for what was served before that generation."""
        await self._until(lambda serving: serving.oldest >= generation)

    async def _until(self, holds: Callable[[Serving], bool]) -> None:
        while not all(holds(each.serving) for each in self.running):
            self._moved.clear()
            await self._moved.wait()

    def _tell(self, message: Serve) -> None:
        self._serve = message
        for each in self._all:
            if each.connected:
                self._send(each.name, [message])

    async def wait(self) -> None:
        """Returns when all of them listen. Raises StartError where one cannot."""
        await asyncio.shield(self._started)

    async def drain(self, reason: str, seconds: float) -> bool:
        """Lets requests end for so long, and the front-ends with them; returns whether all requests ended in time."""
        self._drain = Drain(reason)
        ends: list[asyncio.Task[int]] = []
        for each in self._all:
            each.release()
            if each.process and each.connected:
                self._send(each.name, [self._drain])
                ends.append(asyncio.create_task(each.process.wait()))
            elif each.process:
                each.process.kill()  # It has no requests that it could answer.
        done, late = await asyncio.wait(ends, timeout=seconds + FLUSH_SECONDS) if ends else (set(), set())
        self._kill()
        await asyncio.gather(*(each.process.wait() for each in self.running if each.process))
        return not late and not any(task.result() for task in done)

    def cut_off(self) -> None:
        """Ends all requests at once, and soon the front-ends that do not."""
        for each in self._all:
            self._send(each.name, [CutOff()])
        asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._kill)

    def _kill(self) -> None:
        """Ends their processes at once."""
        for each in self.running:
            if each.process:
                each.process.kill()

    def on_message(self, name: bytes, message: object) -> None:
        """Takes a front-end's message."""
        each = next((each for each in self._all if each.name == name), None)
        if each is None:
            return
        match message:
            case Hello():
                each.connected = True
                each.gone.clear()
                for order in (self._serve, self._drain):  # They may have been sent while the connection was lost.
                    if order is not None:
                        self._send(name, [order])
            case Serving():
                each.ready_since = each.ready_since or time.monotonic()
                each.serving = message
                self._moved.set()
                if not self._started.done() and all(other.ready_since for other in self._all):
                    self._started.set_result(None)
            case Broken():
                log.error("%s cannot begin: %s", each, message.error)
                self._fail_start(message.error)

    def on_lost(self, name: bytes) -> None:
        """Notes that a front-end's connection has ended."""
        for each in self._all:
            if each.name == name:
                each.gone.set()

    async def start_one(self, each: KeptFrontEnd) -> Process:
        """Starts the process of a front-end, which listens once it is told to."""
        each.connected, each.serving = False, NOTHING
        return await self._start(each.index, each.name)

    def on_end(self, each: KeptFrontEnd, code: int) -> bool:
        """Notes the end of a front-end's process. Before all listen, it ends the server's start."""
        log.error("%s ended with code %d", each, code)
        self._metrics.forget(place_of(each.index))
        if self._started.done():
            self._metrics.front_end_restarts.inc()
        asyncio.get_running_loop().call_soon(self._moved.set)  # By then its process does not count as running.
        self._fail_start(f"{each.label} ended with code {code} while starting; the log may say more")
        return True

    def on_failure(self, each: KeptFrontEnd, error: Exception) -> bool:
        """Notes that no process could be started."""
        text = f"{each.label} cannot be started ({type(error).__name__}: {error})"
        log.error("%s", text)
        self._fail_start(text)
        return True

    def _fail_start(self, reason: str) -> None:
        if not self._started.done():
            self._started.set_exception(StartError(reason))
