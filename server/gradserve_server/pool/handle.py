"""One worker process as the front-end holds it. A thread reads its pipe, so that the event loop never waits."""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from . import forking
from .pipe import Pipe
from .wire import Stop, WorkerSettings

STOP_SECONDS = 5.0  # Seconds that a worker has to stop by itself before it is killed.


class Handle:
    """A running worker. On the loop, `hear` is called with each of its messages, and `lost` once when it has ended."""

    def __init__(
        self,
        settings: WorkerSettings,
        loop: asyncio.AbstractEventLoop,
        hear: Callable[["Handle", Any], None],
        lost: Callable[["Handle"], None],
    ) -> None:
        forking.start()
        ours, theirs = socket.socketpair()
        self._process = forking.CONTEXT.Process(target=_work, args=(theirs, settings), daemon=True)
        with theirs, forking.ignoring_interrupts():  # An open copy of the worker's end would hide that it has ended.
            self._process.start()
        self._pipe = Pipe(ours)
        self._loop, self._hear, self._lost = loop, hear, lost
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid or 0

    def send(self, message: object) -> None:
        """Sends a message without waiting. A message to a dead worker is dropped."""
        self._pipe.send([message])

    def kill(self) -> None:
        """Kills the worker without asking it to stop, also one that is stopped by a signal."""
        self._process.kill()

    def close(self) -> None:
        """Asks the worker to stop, waits for STOP_SECONDS at most, then kills it."""
        self.send(Stop())
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _read(self) -> None:
        try:
            while True:
                self._on_loop(self._deliver, self._pipe.receive())
        except (EOFError, OSError):
            pass
        finally:  # A worker whose messages cannot be read is of no use either.
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._on_loop(self._lost, self)

    def _deliver(self, messages: Sequence[Any]) -> None:
        for message in messages:
            try:
                self._hear(self, message)
            except Exception as error:  # The messages after this one must be heard too.
                self._loop.call_exception_handler({"message": f"while hearing {message!r:.200}", "exception": error})

    def _on_loop(self, function: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # The loop may be closed already.
            self._loop.call_soon_threadsafe(function, *args)


def _work(end: socket.socket, settings: WorkerSettings) -> None:
    """What the worker process runs."""
    from .worker import main  # Imported here, since it imports torch, which the front-end does without.

    main(end, settings)
