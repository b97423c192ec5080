"""The front-end's end of one worker process: two threads, so that the event loop never touches a pipe."""

import asyncio
import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .wire import Stop, WorkerSettings

PATIENCE = 5.0  # seconds between asking a worker to stop and ending it


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A process started inside ignores Ctrl-C from its first moment; only the front-end stops workers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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

        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=main, args=(theirs, settings), daemon=True)
        with _deaf_to_interrupts():
            self._process.start()
        theirs.close()  # or its end would never be seen
        self._loop, self._hear, self._lost = loop, hear, lost
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._read, self._write)]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid or 0

    def send(self, message: object) -> None:
        """Queues a message; never blocks. What is sent to a dead worker is dropped."""
        self._outbox.put(message)

    def close(self) -> None:
        """Stops the worker: politely, then not."""
        self.send(Stop())
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._outbox.put(None)

    def _read(self) -> None:
        try:
            while True:
                self._on_loop(self._hear, self, self._connection.recv())
        except (EOFError, OSError):
            pass
        finally:  # also after a message that cannot be read: nobody would hear this worker any more
            self._process.kill()
            self._process.join()
            self._outbox.put(None)
            self._on_loop(self._lost, self)

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            with suppress(OSError):
                self._connection.send(message)

    def _on_loop(self, function: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(function, *args)
