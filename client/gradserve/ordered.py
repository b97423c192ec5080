"""Ordered concurrent map with bounded look-ahead."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gradserve.arguments import ImageLike

T = TypeVar("T")


def in_order(call: Callable[[ImageLike], T], images: Iterable[ImageLike], concurrency: int) -> Iterator[T]:
    """The call's results in the images' order; at most twice `concurrency` calls are ahead of the caller."""
    with ThreadPoolExecutor(concurrency) as pool:
        begun: deque[Future[T]] = deque()
        try:
            for image in images:
                begun.append(pool.submit(call, image))
                if len(begun) >= 2 * concurrency:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for each in begun:
                each.cancel()


async def in_order_async(
    call: Callable[[ImageLike], Awaitable[T]], images: Iterable[ImageLike], concurrency: int
) -> AsyncIterator[T]:
    """The call's results in the images' order; at most twice `concurrency` calls are ahead of the caller."""
    places = asyncio.Semaphore(concurrency)

    async def one(image: ImageLike) -> T:
        async with places:
            return await call(image)

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
