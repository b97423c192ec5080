"""A connection to a server for asyncio: calls and their errors, health, the server's models, waiting and closing."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from gradserve import errors
from gradserve.messages.models import model_card
from gradserve.results.models import ModelCard
from gradserve.transport.channel import (
    ChannelOptions,
    Compression,
    check_size,
    endpoint,
    health_request,
    health_state,
)
from gradserve.transport.retry import FullRetries, checked_retries
from gradserve.transport.secrets import PathLike, Tls
from gradserve.transport.stubs import AsyncChannels, Stubs
from gradserve.v1 import models_pb2


class AsyncConnection:
    """What the client has beside the calls that are about pictures."""

    def __init__(
        self,
        target: str | None = None,
        *,
        channel: Any = None,
        tls: Tls = None,
        certificate: PathLike | None = None,
        key: PathLike | None = None,
        token: str | None = None,
        timeout: float | None = 60.0,
        retries: int | None = None,
        retries_when_full: int = 0,
        connections: int | None = None,
        options: ChannelOptions = (),
        interceptors: Sequence[Any] = (),
        compression: Compression | None = None,
    ) -> None:
        self._endpoint = endpoint(
            channel,
            token,
            target=target,
            tls=tls,
            certificate=certificate,
            key=key,
            retries=retries,
            connections=connections,
            options=options,
            interceptors=interceptors,
            compression=compression,
        )
        self.target = self._endpoint.target
        self.timeout = timeout
        self._retries_when_full = checked_retries(retries_when_full)
        self._channels = AsyncChannels(self._endpoint)

    @property
    def _stubs(self) -> Stubs:
        return self._channels.stubs

    async def health(self, service: str = "") -> str:
        """The server's state: "SERVING" or "NOT_SERVING"."""
        try:
            return health_state(await self._stubs.health(health_request(service), timeout=self.timeout))
        except grpc.RpcError as failure:
            raise self._endpoint.error(failure) from None

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return as soon as the server is serving; DeadlineExceeded if it is not in time."""
        end = time.monotonic() + timeout
        state = "no answer"
        while (remaining := end - time.monotonic()) > 0:
            try:
                state = health_state(await self._stubs.health(b"", timeout=remaining, wait_for_ready=True))
            except grpc.RpcError as failure:
                state = str(failure.details())
            if state == "SERVING":
                return
            await asyncio.sleep(min(0.1, remaining))
        raise errors.not_ready(self.target, timeout, state, self._endpoint.proxy)

    async def models(self) -> list[ModelCard]:
        """The cards of all models that were loaded, without their layers; `model()` is the default one."""
        reply = await self._call(self._stubs.models.ListModels, models_pb2.ListModelsRequest(), None)
        return [model_card(each) for each in reply.models]

    async def unavailable_models(self) -> dict[str, str]:
        """Why models of the server's configuration could not be loaded, by name."""
        reply = await self._call(self._stubs.models.ListModels, models_pb2.ListModelsRequest(), None)
        return {each.name: each.reason for each in reply.unavailable}

    async def default_model(self) -> str:
        """The name of the model that answers requests that name none, even if it could not be loaded."""
        reply = await self._call(self._stubs.models.ListModels, models_pb2.ListModelsRequest(), None)
        return str(reply.default_model)

    async def model(self, name: str = "") -> ModelCard:
        """One model's card with its layers; without a name that of the default model."""
        reply = await self._call(self._stubs.models.GetModel, models_pb2.GetModelRequest(name=name), None)
        return model_card(reply)

    async def close(self) -> None:
        """Close the running loop's connections and cancel the calls that run in it; the next call opens others."""
        await self._channels.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        check_size(request)
        retries = FullRetries(self._retries_when_full, self.timeout if timeout is None else timeout)
        while True:
            try:
                return await method(request, timeout=retries.seconds(), metadata=self._endpoint.metadata)
            except grpc.RpcError as failure:
                error = self._endpoint.error(failure)
            await asyncio.sleep(retries.delay(error))

    async def _stream(self, method: Callable[..., Any], request: Any, timeout: float | None) -> AsyncIterator[Any]:
        check_size(request)
        retries = FullRetries(self._retries_when_full, timeout)
        while True:
            call, begun = method(request, timeout=retries.seconds(), metadata=self._endpoint.metadata), False
            try:
                async for event in call:
                    begun = True
                    if event.HasField("result"):
                        async for _ in call:  # The status follows the result; an earlier end would count as cancelled.
                            pass
                    yield event
                return
            except grpc.RpcError as failure:
                error = self._endpoint.error(failure)
                if begun:
                    raise error from None
            finally:
                call.cancel()
            await asyncio.sleep(retries.delay(error))
