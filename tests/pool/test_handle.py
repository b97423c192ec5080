"""The front-end's end of a worker."""

import asyncio
import multiprocessing
import threading
from typing import Any

import pytest

from gradserve_server.pool.handle import Handle
from gradserve_server.pool.wire import WorkerSettings


def of_nobody(loop: asyncio.AbstractEventLoop, heard: list[Any]) -> Handle:
    """A handle without a process."""
    handle = Handle.__new__(Handle)

    def hear(_: Handle, message: Any) -> None:
        if message == "bad":
            raise ValueError("it cannot be heard")
        heard.append(message)

    handle._loop, handle._hear = loop, hear
    return handle


async def test_a_message_that_cannot_be_heard_harms_no_other() -> None:
    loop, heard, told = asyncio.get_running_loop(), [], []
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    of_nobody(loop, heard)._deliver(["first", "bad", "last"])
    assert heard == ["first", "last"]
    assert [str(error) for error in told] == ["it cannot be heard"]


async def test_a_process_that_cannot_start_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: Any) -> None:
        raise OSError("too many processes")

    monkeypatch.setattr(multiprocessing.context.ForkServerProcess, "start", start)
    before = threading.active_count()
    settings = WorkerSettings(models=(), device="cpu")
    for _ in range(5):
        with pytest.raises(OSError, match="too many"):
            Handle(settings, asyncio.get_running_loop(), lambda *_: None, lambda *_: None)
    assert threading.active_count() == before
