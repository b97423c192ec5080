"""The front-end's end of one worker process; a thread reads, so that the event loop never waits for a pipe."""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from . import forking
from .pipe import Pipe
from .wire import Stop, WorkerSettings

STOP_SECONDS = 5.0  # seconds between asking a worker to stop and ending it


class Handle:
    """A running worker. `hear` gets what it says and `lost` is called once when it is gone, both on the loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        loop: asyncio.AbstractEventLoop,
        hear: Callable[["Handle", Any], None],
        lost: Callable[["Handle"], None],
    ) -> None:
        from .worker import main  # here, so that the front-end's other modules do not wait for it

        forking.start()
        ours, theirs = socket.socketpair()
        self._process = forking.CONTEXT.Process(target=main, args=(theirs, settings), daemon=True)
        with theirs, forking.ignoring_interrupts():  # closed afterwards, or its end would never be seen
            self._process.start()
        self._pipe = Pipe(ours)
        self._loop, self._hear, self._lost = loop, hear, lost
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid or 0

    def send(self, message: object) -> None:
        """Never waits. What is sent to a dead worker is dropped."""
        self._pipe.send([message])

    def close(self) -> None:
        """Stops the worker: politely, then not."""
        self.send(Stop())
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _read(self) -> None:
        try:
            while True:
                self._on_loop(self._tell, self._pipe.receive())
        except (EOFError, OSError):
            pass
        finally:  # also after a message that cannot be read: nobody would hear this worker any more
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._on_loop(self._lost, self)

    def _tell(self, messages: Sequence[Any]) -> None:
        for message in messages:
            try:
                self._hear(self, message)
            except Exception as error:  # or those after it would not be heard
                self._loop.call_exception_handler({"message": f"while hearing {message!r:.200}", "exception": error})

    def _on_loop(self, function: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(function, *args)
