"""Replies that their callers do not take: gRPC keeps them in memory until the connection ends."""

import asyncio
from collections import Counter
from typing import Any

import grpc

from .errors import Full, RequestError

MIB = 1 << 20


class NotRead(RequestError):
    """UNAVAILABLE: the caller did not take a part of a stream in time."""

    def __init__(self, seconds: float) -> None:
        text = f"the caller did not read the stream for {seconds:g} s"
        super().__init__(grpc.StatusCode.UNAVAILABLE, "UNREAD", text)


class UnreadReplies:
    """Counts bytes of replies that were ready a while ago and are still not taken, by caller."""

    def __init__(self, seconds: float, limit: int, lifetime: float) -> None:
        """`seconds`: the while. `limit`: bytes of a caller. `lifetime`: the longest life of a connection in seconds."""
        self._seconds, self._limit, self._lifetime = seconds, limit, lifetime
        self._bytes = Counter[str]()

    def check(self, caller: str) -> None:
        """Raises Full where the caller has left more than the limit unread."""
        held = self._bytes[caller]
        if held > self._limit:
            text = f"{held / MIB:.1f} MiB of replies to this caller were not read for {self._seconds:g} s"
            raise Full("unread", f"{text}; read them, or close their connections", self._seconds)

    def watch(self, caller: str, size: int, context: grpc.aio.ServicerContext) -> None:
        """Counts a reply of `size` bytes from `seconds` from now until its call has ended."""
        held = False

        def hold() -> None:
            nonlocal held
            held = True
            self._add(caller, size)

        def end(_: Any) -> None:
            timer.cancel()
            if held:
                self._add(caller, -size)

        timer = asyncio.get_running_loop().call_later(self._seconds, hold)
        context.add_done_callback(end)

    async def write(self, caller: str, message: Any, context: grpc.aio.ServicerContext) -> None:
        """Writes a message of a stream. Raises NotRead where the caller does not take it.

        It is then counted as long as its connection may live, since nothing tells when that ends.
        """
        try:
            async with asyncio.timeout(self._seconds):
                await context.write(message)
        except TimeoutError as error:
            size = message.ByteSize()
            self._add(caller, size)
            asyncio.get_running_loop().call_later(self._lifetime, self._add, caller, -size)
            raise NotRead(self._seconds) from error

    def timed(self, caller: str, context: grpc.aio.ServicerContext) -> Any:
        """The context of a stream, whose `write` is the one above."""
        return _TimedContext(self, caller, context)

    def _add(self, caller: str, size: int) -> None:
        self._bytes[caller] += size
        if not self._bytes[caller]:
            del self._bytes[caller]


class _TimedContext:
    def __init__(self, unread: UnreadReplies, caller: str, context: grpc.aio.ServicerContext) -> None:
        self._unread, self._caller, self._context = unread, caller, context

    async def write(self, message: Any) -> None:
        await self._unread.write(self._caller, message, self._context)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
