"""The channels of both clients, and the stubs of every service over them.

`Client` is generated from `AsyncClient` (protos/sync_client.py), but for these: all threads may share a channel, while
a channel for asyncio belongs to one event loop.
"""

import asyncio
from functools import cache
from typing import Any, NamedTuple, Self

import grpc
import grpc.aio

from gradserve.transport import channel
from gradserve.v1 import models_pb2_grpc, service_pb2_grpc


class Stubs(NamedTuple):
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


class Channels:
    """The one channel of a `Client`, which all threads share."""

    def __init__(self, endpoint: channel.Endpoint) -> None:
        self.stubs = Stubs.over(endpoint.channel(grpc))

    def close(self) -> None:
        """Close the channel, and cancel the calls that are still running."""
        self.stubs.channel.close()


class AsyncChannels:
    """The channels of an `AsyncClient`, one for each event loop: each is opened where it is first used."""

    def __init__(self, endpoint: channel.Endpoint) -> None:
        self._endpoint = endpoint
        self._by_loop: dict[asyncio.AbstractEventLoop, Stubs] = {}

    @property
    def stubs(self) -> Stubs:
        """The stubs of the running loop; those of loops that have ended are forgotten."""
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            _keep_grpc_running()
            self._by_loop = {other: stubs for other, stubs in self._by_loop.items() if not other.is_closed()}
            self._by_loop[loop] = Stubs.over(self._endpoint.channel(grpc.aio))
        return self._by_loop[loop]

    async def close(self) -> None:
        """Close the channel of the running loop, and cancel the calls that run in it."""
        stubs = self._by_loop.pop(asyncio.get_running_loop(), None)
        if stubs is not None:
            await stubs.channel.close()


@cache
def _keep_grpc_running() -> None:
    """Until the process ends: gRPC may wait for itself where it is shut down between two event loops."""
    grpc.aio.init_grpc_aio()
