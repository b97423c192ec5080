"""A thread that may never end."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """What the function returns, from a thread that does not keep the process from ending, as `to_thread`'s do."""
    result = concurrent.futures.Future[T]()
    result.set_running_or_notify_cancel()

    def work() -> None:
        try:
            result.set_result(function())
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return asyncio.wrap_future(result)
