"""Replies that their callers do not take: gRPC keeps them in memory until the connection ends."""

import asyncio
from collections import Counter
from typing import Any

import grpc

from ..errors import Full, RequestError

MIB = 1 << 20
SENDING_FACTOR = 4  # The bytes of replies on their way to a caller may be so many times the limit of unread ones.


class NotRead(RequestError):
    """RESOURCE_EXHAUSTED: the caller did not take a part of a stream in time."""

    def __init__(self, seconds: float) -> None:
        text = f"the caller did not read the stream for {seconds:g} s"
        super().__init__(grpc.StatusCode.RESOURCE_EXHAUSTED, "NOT_READ", text)


class UnreadReplies:
    """Counts the bytes of replies that callers have not taken yet: of all, and of those that were left unread."""

    def __init__(self, seconds: float, limit: int) -> None:
        """`seconds`: after so long a reply counts as left unread. `limit`: bytes that a caller may leave unread."""
        self._seconds, self._limit = seconds, limit
        self._sending, self._left = Counter[str](), Counter[str]()

    def check(self, caller: str) -> None:
        """Raises Full where too much is on its way to the caller, or was left unread by it."""
        left, sending = self._left[caller], self._sending[caller]
        if left > self._limit:
            text = f"{left / MIB:.1f} MiB of replies to this caller were not read for {self._seconds:g} s"
            raise Full("unread", f"{text}; read them, or close their connections", self._seconds)
        if sending > SENDING_FACTOR * self._limit:
            text = f"{sending / MIB:.1f} MiB of replies are on their way to this caller, and it has not read them"
            raise Full("unread", text, self._seconds)

    def watch(self, caller: str, size: int, context: grpc.aio.ServicerContext) -> None:
        """Counts a reply of `size` bytes until its call has ended."""
        _add(self._sending, caller, size)
        held = False

        def hold() -> None:
            nonlocal held
            held = True
            _add(self._left, caller, size)

        def end(_: Any) -> None:
            timer.cancel()
            _add(self._sending, caller, -size)
            if held:
                _add(self._left, caller, -size)

        timer = asyncio.get_running_loop().call_later(self._seconds, hold)
        context.add_done_callback(end)

    def timed(self, caller: str, context: grpc.aio.ServicerContext) -> Any:
        """The context of a stream, whose `write` raises NotRead where the caller does not take what is written.

        It is then counted as left until the call has ended.
        """
        return _TimedContext(self, caller, context)

    async def write(self, caller: str, message: Any, context: grpc.aio.ServicerContext, *, begun: bool = False) -> None:
        """Writes a message as `timed` says; `begun`: whether there was one before."""
        try:
            async with asyncio.timeout(self._seconds):
                if not begun:  # A call whose first message is on its way can be ended only if its headers were sent.
                    await context.send_initial_metadata(())
                await context.write(message)
        except TimeoutError as error:
            size = message.ByteSize()
            _add(self._left, caller, size)
            context.add_done_callback(lambda _: _add(self._left, caller, -size))
            raise NotRead(self._seconds) from error


class _TimedContext:
    def __init__(self, unread: UnreadReplies, caller: str, context: grpc.aio.ServicerContext) -> None:
        self._unread, self._caller, self._context = unread, caller, context
        self._begun = False

    async def write(self, message: Any) -> None:
        begun, self._begun = self._begun, True
        await self._unread.write(self._caller, message, self._context, begun=begun)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _add(counter: Counter[str], caller: str, size: int) -> None:
    counter[caller] += size
    if not counter[caller]:
        del counter[caller]
