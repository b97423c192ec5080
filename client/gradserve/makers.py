"""The calls that make pictures, alike for both clients: they take many steps, and can be watched and left."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Unpack

import grpc

from gradserve import channel
from gradserve.arguments import ImageLike, MaximizeArguments, StyleLike, StylizeArguments
from gradserve.connection import AsyncConnection, Connection
from gradserve.messages import pictures
from gradserve.messages.goals import GoalLike
from gradserve.results.pictures import MaximizedImage, MaximizedImages, Progress, StylizedImage


class Makers(Connection):
    """What `Client` has of them."""

    def maximize(
        self, goals: GoalLike | list[Any], *, timeout: float = pictures.LONG, **arguments: Unpack[MaximizeArguments]
    ) -> MaximizedImage | MaximizedImages:
        """The picture that a goal is maximal on, or with a list of goals all of theirs.

        A goal is a class's index or name, a Unit, or a Goal: sums and differences of those, of layers and directions.
        """
        request = pictures.maximize_request(goals, **arguments)
        return pictures.maximized(goals, self._call(self._line.gradients.Maximize, request, timeout))

    def maximize_stream(
        self, goals: GoalLike | list[Any], *, timeout: float = pictures.LONG, **arguments: Unpack[MaximizeArguments]
    ) -> Iterator[Progress | MaximizedImage | MaximizedImages]:
        """Progress while it is made, and in the end what `maximize` returns; leaving the loop ends the work."""
        request = pictures.maximize_request(goals, **arguments)
        for event in self._stream(self._line.gradients.StreamMaximize, request, timeout):
            yield pictures.maximize_event(goals, event)

    def stylize(
        self,
        content: ImageLike | None,
        style: StyleLike | None = None,
        *,
        timeout: float = pictures.LONG,
        **arguments: Unpack[StylizeArguments],
    ) -> StylizedImage:
        """The content in the style of a picture, of a list, or of (picture, weight) pairs (Gatys et al. 2016).

        Without a style the content is reconstructed from its layers; with None as content the style gives a texture.
        """
        request = pictures.stylize_request(content, style, **arguments)
        return pictures.stylized(self._call(self._line.gradients.Stylize, request, timeout))

    def stylize_stream(
        self,
        content: ImageLike | None,
        style: StyleLike | None = None,
        *,
        timeout: float = pictures.LONG,
        **arguments: Unpack[StylizeArguments],
    ) -> Iterator[Progress | StylizedImage]:
        """Progress while it is made, and in the end what `stylize` returns; leaving the loop ends the work."""
        request = pictures.stylize_request(content, style, **arguments)
        for event in self._stream(self._line.gradients.StreamStylize, request, timeout):
            yield pictures.stylize_event(event)

    def _stream(self, method: Callable[..., Any], request: Any, timeout: float) -> Iterator[Any]:
        channel.check_size(request)
        call = method(request, timeout=timeout, metadata=self._endpoint.metadata)
        try:
            for event in call:
                if event.HasField("result"):
                    list(call)  # the status comes after it; leaving before that would count as cancelled
                yield event
        except grpc.RpcError as failure:
            raise self._endpoint.error(failure) from None
        finally:
            call.cancel()


class AsyncMakers(AsyncConnection):
    """What `AsyncClient` has of them."""

    async def maximize(
        self, goals: GoalLike | list[Any], *, timeout: float = pictures.LONG, **arguments: Unpack[MaximizeArguments]
    ) -> MaximizedImage | MaximizedImages:
        """The picture that a goal is maximal on, or with a list of goals all of theirs; see `Client`."""
        request = await asyncio.to_thread(pictures.maximize_request, goals, **arguments)
        return pictures.maximized(goals, await self._call(self._line.gradients.Maximize, request, timeout))

    async def maximize_stream(
        self, goals: GoalLike | list[Any], *, timeout: float = pictures.LONG, **arguments: Unpack[MaximizeArguments]
    ) -> AsyncIterator[Progress | MaximizedImage | MaximizedImages]:
        """Progress while it is made, and in the end what `maximize` returns; leaving the loop ends the work."""
        request = await asyncio.to_thread(pictures.maximize_request, goals, **arguments)
        async for event in self._stream(self._line.gradients.StreamMaximize, request, timeout):
            yield pictures.maximize_event(goals, event)

    async def stylize(
        self,
        content: ImageLike | None,
        style: StyleLike | None = None,
        *,
        timeout: float = pictures.LONG,
        **arguments: Unpack[StylizeArguments],
    ) -> StylizedImage:
        """The content in the style of a picture, of a list, or of (picture, weight) pairs; see `Client`."""
        request = await asyncio.to_thread(pictures.stylize_request, content, style, **arguments)
        return pictures.stylized(await self._call(self._line.gradients.Stylize, request, timeout))

    async def stylize_stream(
        self,
        content: ImageLike | None,
        style: StyleLike | None = None,
        *,
        timeout: float = pictures.LONG,
        **arguments: Unpack[StylizeArguments],
    ) -> AsyncIterator[Progress | StylizedImage]:
        """Progress while it is made, and in the end what `stylize` returns; leaving the loop ends the work."""
        request = await asyncio.to_thread(pictures.stylize_request, content, style, **arguments)
        async for event in self._stream(self._line.gradients.StreamStylize, request, timeout):
            yield pictures.stylize_event(event)

    async def _stream(self, method: Callable[..., Any], request: Any, timeout: float) -> AsyncIterator[Any]:
        channel.check_size(request)
        call = method(request, timeout=timeout, metadata=self._endpoint.metadata)
        try:
            async for event in call:
                if event.HasField("result"):
                    async for _ in call:
                        pass
                yield event
        except grpc.RpcError as failure:
            raise self._endpoint.error(failure) from None
        finally:
            call.cancel()
