"""What both clients have of their connection: channel, calls and their errors, health, waiting and closing."""

import asyncio
import time
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc
import grpc.aio

from gradserve import channel, errors
from gradserve.v1 import models_pb2_grpc, service_pb2_grpc

DEFAULT_ADDRESS = "127.0.0.1:50051"


class Line(NamedTuple):
    """A channel and what is called over it."""

    channel: Any
    gradients: Any
    models: Any
    health: Any

    @classmethod
    def over(cls, opened: Any) -> Self:
        """The calls of both services, and of the health service, over that channel."""
        health = opened.unary_unary(channel.HEALTH, channel.same, channel.same)
        gradients = service_pb2_grpc.GradientServiceStub(opened)
        return cls(opened, gradients, models_pb2_grpc.ModelServiceStub(opened), health)


class Connection:
    """A connection for ordinary code."""

    def __init__(
        self,
        target: str = DEFAULT_ADDRESS,
        *,
        tls: channel.Tls = None,
        token: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
    ) -> None:
        self.target = target
        self.timeout = timeout
        self._endpoint = channel.Endpoint(target, tls, token, retries)
        self._line = Line.over(self._endpoint.channel(grpc))

    def health(self, service: str = "") -> str:
        """The server's state: "SERVING" or "NOT_SERVING"."""
        try:
            return channel.health_state(self._line.health(channel.health_request(service), timeout=self.timeout))
        except grpc.RpcError as failure:
            raise self._endpoint.error(failure) from None

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return as soon as the server is serving; DeadlineExceeded if it is not in time."""
        end = time.monotonic() + timeout
        state = "no answer"
        while (left := end - time.monotonic()) > 0:
            try:
                state = channel.health_state(self._line.health(b"", timeout=left, wait_for_ready=True))
            except grpc.RpcError as failure:
                state = str(failure.details())
            if state == "SERVING":
                return
            time.sleep(min(0.1, left))
        raise errors.not_ready(self.target, timeout, state, self._endpoint.proxy)

    def close(self) -> None:
        """Close the connection; calls that are still running are cancelled."""
        self._line.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        channel.check_size(request)
        seconds = self.timeout if timeout is None else timeout
        try:
            return method(request, timeout=seconds, metadata=self._endpoint.metadata)
        except grpc.RpcError as failure:
            raise self._endpoint.error(failure) from None


class AsyncConnection:
    """A connection for asyncio: one channel for each event loop, opened where it is first used."""

    def __init__(
        self,
        target: str = DEFAULT_ADDRESS,
        *,
        tls: channel.Tls = None,
        token: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
    ) -> None:
        self.target = target
        self.timeout = timeout
        self._endpoint = channel.Endpoint(target, tls, token, retries)
        self._lines: dict[asyncio.AbstractEventLoop, Line] = {}

    @property
    def _line(self) -> Line:
        """The running loop's; those of loops that have ended are forgotten."""
        loop = asyncio.get_running_loop()
        if loop not in self._lines:
            _keep_grpc_running()
            self._lines = {other: line for other, line in self._lines.items() if not other.is_closed()}
            self._lines[loop] = Line.over(self._endpoint.channel(grpc.aio))
        return self._lines[loop]

    async def health(self, service: str = "") -> str:
        """The server's state: "SERVING" or "NOT_SERVING"."""
        try:
            return channel.health_state(await self._line.health(channel.health_request(service), timeout=self.timeout))
        except grpc.RpcError as failure:
            raise self._endpoint.error(failure) from None

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return as soon as the server is serving; DeadlineExceeded if it is not in time."""
        end = time.monotonic() + timeout
        state = "no answer"
        while (left := end - time.monotonic()) > 0:
            try:
                state = channel.health_state(await self._line.health(b"", timeout=left, wait_for_ready=True))
            except grpc.aio.AioRpcError as failure:
                state = str(failure.details())
            if state == "SERVING":
                return
            await asyncio.sleep(min(0.1, left))
        raise errors.not_ready(self.target, timeout, state, self._endpoint.proxy)

    async def close(self) -> None:
        """Close the running loop's connection and cancel the calls that run in it; the next call opens another."""
        line = self._lines.pop(asyncio.get_running_loop(), None)
        if line is not None:
            await line.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        channel.check_size(request)
        seconds = self.timeout if timeout is None else timeout
        try:
            return await method(request, timeout=seconds, metadata=self._endpoint.metadata)
        except grpc.RpcError as failure:
            raise self._endpoint.error(failure) from None


@cache
def _keep_grpc_running() -> None:
    """Until the process ends: gRPC may wait for itself where it is shut down between two event loops."""
    grpc.aio.init_grpc_aio()
