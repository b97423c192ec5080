"""Ordered concurrent map with bounded look-ahead, which waits while the server is full."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gradserve.arguments import ImageLike
from gradserve.errors import ResourceExhausted

T = TypeVar("T")


def _delay(error: ResourceExhausted) -> float:
    """Seconds until the next attempt. Raises an error that carries none, such as that of too large a reply."""
    if error.retry_after is None:
        raise error
    return error.retry_after


def in_order(call: Callable[[ImageLike], T], images: Iterable[ImageLike], concurrency: int) -> Iterator[T]:
    """The call's results in the images' order; at most twice `concurrency` calls are ahead of the caller.

    A call that the server has no room for is made again after the delay that it tells.
    """

    ended = threading.Event()

    def patient(image: ImageLike) -> T:
        while True:
            try:
                return call(image)
            except ResourceExhausted as error:
                if ended.wait(_delay(error)):
                    raise

    with ThreadPoolExecutor(concurrency) as pool:
        begun: deque[Future[T]] = deque()
        try:
            for image in images:
                begun.append(pool.submit(patient, image))
                if len(begun) >= 2 * concurrency:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            ended.set()
            for each in begun:
                each.cancel()


async def in_order_async(
    call: Callable[[ImageLike], Awaitable[T]], images: Iterable[ImageLike], concurrency: int
) -> AsyncIterator[T]:
    """The call's results in the images' order; at most twice `concurrency` calls are ahead of the caller.

    A call that the server has no room for is made again after the delay that it tells.
    """
    places = asyncio.Semaphore(concurrency)

    async def one(image: ImageLike) -> T:
        async with places:
            while True:
                try:
                    return await call(image)
                except ResourceExhausted as error:
                    await asyncio.sleep(_delay(error))

    begun: deque[asyncio.Task[T]] = deque()
    try:
        for image in images:
            begun.append(asyncio.create_task(one(image)))
            if len(begun) >= 2 * concurrency:
                yield await begun.popleft()
        while begun:
            yield await begun.popleft()
    finally:
        for each in begun:
            each.cancel()
