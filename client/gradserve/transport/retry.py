"""Retries with back-off, and which errors mean a bad image."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from gradserve.errors import (
    Cancelled,
    DeadlineExceeded,
    GradserveError,
    InternalError,
    InvalidArgument,
    RequestTooLarge,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)

T = TypeVar("T")
TRANSIENT = (DeadlineExceeded, InternalError, Cancelled)  # Errors after which the next attempt may succeed.
# Errors that may be about a picture; `about_the_picture` says whether one is.
PICTURE_ERRORS = (InvalidArgument, RequestTooLarge, OSError)


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request that fails is sent again, and for how many seconds a server may be unavailable."""

    retries: int = 3
    seconds: float = 60.0

    async def answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer of `ask`, which is called again while the server is full, unavailable or failing."""
        failures, away, pause = 0, 0.0, 0.25
        while True:
            try:
                return await ask()
            except ResourceExhausted as error:
                # Without a delay it is no full queue, but for instance too large a reply.
                if error.retry_after is None:
                    raise
                await asyncio.sleep(error.retry_after)
            except Unavailable:
                if away > self.seconds:
                    raise
                await asyncio.sleep(pause)
                away, pause = away + pause, min(2 * pause, 8)
            except TRANSIENT:
                failures += 1
                if failures > self.retries:
                    raise
                await asyncio.sleep(0.1 * 2**failures)


def checked_retries(number: int) -> int:
    """How often to call a full server again, if it is a whole number from 0 on. Raises ValueError."""
    if type(number) is not int or number < 0:
        raise ValueError(f"retries_when_full is a whole number from 0 on, not {number!r}")
    return number


class FullRetries:
    """Retries of one call that a full server refused: so many, after the delay that it names, before the deadline.

    seconds: until that deadline; None: there is none.
    """

    def __init__(self, number: int, seconds: float | None) -> None:
        self._left = number
        self._end = None if seconds is None else time.monotonic() + seconds

    def seconds(self) -> float | None:
        """How many seconds are left until the call's deadline, if it has one."""
        return None if self._end is None else self._end - time.monotonic()

    def delay(self, error: ServiceError) -> float:
        """Seconds until the next attempt. Raises the error if it is of another kind, or retries or time are used up."""
        delay = error.retry_after if isinstance(error, ResourceExhausted) else None
        left = self.seconds()
        if delay is None or not self._left or (left is not None and delay >= left):
            raise error
        self._left -= 1
        return delay


def about_the_picture(error: Exception) -> bool:
    """Whether a failed request says that this picture cannot be used, and nothing else."""
    if isinstance(error, InvalidArgument):
        fields = [violation.field for violation in error.violations]
        return bool(fields) and all(field.split(".")[0] == "image" for field in fields)
    return isinstance(error, PICTURE_ERRORS) and not isinstance(error, ConnectionError)


def reason(error: Exception) -> str:
    """What is wrong with the picture."""
    if isinstance(error, InvalidArgument):
        return "; ".join(violation.description for violation in error.violations)
    return str(error) if isinstance(error, GradserveError) else f"it cannot be read: {error}"
