"""Functions in threads that may never end, and do not keep the process from ending."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """Runs the function in a daemon thread; unlike those of `to_thread`, it does not keep the process from ending."""
    result = concurrent.futures.Future[T]()
    result.set_running_or_notify_cancel()

    def work() -> None:
        try:
            result.set_result(function())
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return asyncio.wrap_future(result)
