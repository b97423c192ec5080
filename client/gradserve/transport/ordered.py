"""Ordered concurrent map with bounded look-ahead, which waits while the server is full."""

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, get_args

from gradserve.arguments import ImageLike, OnError
from gradserve.errors import (
    DeadlineExceeded,
    GradserveError,
    InternalError,
    InvalidArgument,
    PictureError,
    RequestTooLarge,
    ResourceExhausted,
)
from gradserve.messages import inputs

T = TypeVar("T")
RETURNED = (GradserveError, inputs.UnusablePicture, OSError)  # Errors that may be those of one picture alone.


def in_order(
    call: Callable[[ImageLike], T], images: Iterable[ImageLike], concurrency: int, on_error: OnError = "raise"
) -> Generator[T | PictureError, None, None]:
    """The call's results in the images' order; at most twice `concurrency` calls are ahead of the caller.

    A call that the server has no room for is made again after the delay that it tells. A call's error is raised with a
    note that names the picture, or with on_error="return" comes in its place as a PictureError. Errors that are not of
    RETURNED, such as that of a misspelt argument, would come for every picture, and are always raised. Raises
    ValueError at once for wrong arguments, such as a single picture. A generator that is closed before its last result
    waits for the calls that run; Ctrl-C does not wait.
    """
    _check(concurrency, on_error)
    return _in_order(call, inputs.many(images), concurrency, on_error)


def in_order_async(
    call: Callable[[ImageLike], Awaitable[T]],
    images: Iterable[ImageLike],
    concurrency: int,
    on_error: OnError = "raise",
) -> AsyncIterator[T | PictureError]:
    """As `in_order`, for a call that is awaited."""
    _check(concurrency, on_error)
    return _in_order_async(call, inputs.many(images), concurrency, on_error)


def _in_order(
    call: Callable[[ImageLike], T], images: Iterable[ImageLike], concurrency: int, on_error: OnError
) -> Generator[T | PictureError, None, None]:
    ended = threading.Event()

    def one(index: int, image: ImageLike) -> T | PictureError:
        while True:
            try:
                return call(image)
            except ResourceExhausted as error:
                if error.retry_after is None or ended.wait(error.retry_after):
                    return _failed(error, index, image, on_error)
            except Exception as error:
                return _failed(error, index, image, on_error)

    pool, finish_running = ThreadPoolExecutor(concurrency), True
    begun: deque[Future[T | PictureError]] = deque()
    try:
        for index, image in enumerate(images):
            begun.append(pool.submit(one, index, image))
            if len(begun) >= 2 * concurrency:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    except KeyboardInterrupt:  # Running calls may take minutes more; they end when the client is closed.
        finish_running = False
        raise
    finally:
        ended.set()
        pool.shutdown(finish_running, cancel_futures=True)


async def _in_order_async(
    call: Callable[[ImageLike], Awaitable[T]], images: Iterable[ImageLike], concurrency: int, on_error: OnError
) -> AsyncIterator[T | PictureError]:
    places = asyncio.Semaphore(concurrency)

    async def one(index: int, image: ImageLike) -> T | PictureError:
        async with places:
            while True:
                try:
                    return await call(image)
                except ResourceExhausted as error:
                    if error.retry_after is None:
                        return _failed(error, index, image, on_error)
                    delay = error.retry_after
                except Exception as error:
                    return _failed(error, index, image, on_error)
                await asyncio.sleep(delay)

    begun: deque[asyncio.Task[T | PictureError]] = deque()
    try:
        for index, image in enumerate(images):
            begun.append(asyncio.create_task(one(index, image)))
            if len(begun) >= 2 * concurrency:
                yield await begun.popleft()
        while begun:
            yield await begun.popleft()
    finally:
        for each in begun:
            each.cancel()


def raise_if_common(failure: PictureError, field: str = "image") -> None:
    """Raises the error where it is not the picture's own, since all others would fail of it too.

    `field`: the picture's field in the request.
    """
    error = failure.error
    own = isinstance(error, (inputs.UnusablePicture, OSError, RequestTooLarge, DeadlineExceeded, InternalError)) or (
        isinstance(error, InvalidArgument)
        and bool(error.violations)
        and all(path.startswith(field) and not path.startswith(f"{field}_") for path, _ in error.violations)
    )
    if not own:
        raise error


def _check(concurrency: int, on_error: str) -> None:
    if concurrency < 1:
        raise ValueError(f"concurrency is at least 1, not {concurrency}")
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error must be one of {', '.join(get_args(OnError))}; not {on_error!r}")


def _failed(error: Exception, index: int, image: Any, on_error: str) -> PictureError:
    """The PictureError in the place of an answer. Raises the error itself for on_error="raise", or if not RETURNED."""
    name = image if isinstance(image, (str, os.PathLike)) else getattr(image, "filename", getattr(image, "name", ""))
    failure = PictureError(index, os.fspath(name) if isinstance(name, (str, os.PathLike)) else "", error)
    if on_error == "raise" or not isinstance(error, RETURNED):
        error.add_note(f"this was {failure.name}")
        raise error
    return failure
