"""The channels of both clients, and the stubs of every service over them.

`Client` is generated from `AsyncClient` (protos/sync_client.py), but for these: all threads may share a channel, while
a channel for asyncio belongs to one event loop.
"""

import asyncio
from collections.abc import Sequence
from functools import cache
from itertools import cycle
from typing import Any, NamedTuple, Self

import grpc
import grpc.aio

from gradserve.transport import channel
from gradserve.v1 import concepts_pb2_grpc, management_pb2_grpc, models_pb2_grpc, service_pb2_grpc


class Stubs(NamedTuple):
    """What is called over a channel."""

    gradients: Any
    models: Any
    management: Any
    directions: Any
    health: Any

    @classmethod
    def over(cls, opened: Any) -> Self:
        """The calls of all services, and of the health service, over that channel."""
        health = opened.unary_unary(channel.HEALTH, channel.same, channel.same)
        gradients = service_pb2_grpc.GradientServiceStub(opened)
        management = management_pb2_grpc.ModelManagementServiceStub(opened)
        directions = concepts_pb2_grpc.DirectionServiceStub(opened)
        return cls(gradients, models_pb2_grpc.ModelServiceStub(opened), management, directions, health)


class Rotation:
    """The stubs of several channels, in turn."""

    def __init__(self, channels: Sequence[Any]) -> None:
        self.channels = channels
        self._stubs = cycle([Stubs.over(each) for each in channels])

    def next(self) -> Stubs:
        """Those of the channel whose turn it is."""
        return next(self._stubs)


class Channels:
    """The channels of a `Client`, which all threads share."""

    def __init__(self, endpoint: channel.Endpoint | channel.GivenChannel) -> None:
        endpoint.check(grpc)
        self._rotation = Rotation(endpoint.channels(grpc))
        self._owned = endpoint.owns_channels

    @property
    def stubs(self) -> Stubs:
        """The stubs of the next channel."""
        return self._rotation.next()

    def close(self) -> None:
        """Close the channels, and cancel the calls that are still running; a channel of the caller's stays open."""
        for each in self._rotation.channels if self._owned else ():
            each.close()


class AsyncChannels:
    """The channels of an `AsyncClient`, some for each event loop: they are opened where they are first used."""

    def __init__(self, endpoint: channel.Endpoint | channel.GivenChannel) -> None:
        endpoint.check(grpc.aio)
        self._endpoint = endpoint
        self._by_loop: dict[asyncio.AbstractEventLoop, Rotation] = {}

    @property
    def stubs(self) -> Stubs:
        """The stubs of the running loop's next channel; those of loops that have ended are forgotten."""
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            _keep_grpc_running()
            self._by_loop = {other: channels for other, channels in self._by_loop.items() if not other.is_closed()}
            self._by_loop[loop] = Rotation(self._endpoint.channels(grpc.aio))
        return self._by_loop[loop].next()

    async def close(self) -> None:
        """Close the channels of the running loop, and cancel the calls that run in it; a caller's channel stays."""
        rotation = self._by_loop.pop(asyncio.get_running_loop(), None)
        for each in rotation.channels if rotation and self._endpoint.owns_channels else ():
            await each.close()


@cache
def _keep_grpc_running() -> None:
    """Until the process ends: gRPC may wait for itself where it is shut down between two event loops."""
    grpc.aio.init_grpc_aio()
