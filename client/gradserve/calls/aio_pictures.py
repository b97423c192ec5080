"""The calls for asyncio that make pictures: Maximize and Stylize, at once or as a stream."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Unpack

from gradserve.arguments import ImageLike, MaximizeArguments, StyleLike, StylizeArguments
from gradserve.messages import pictures
from gradserve.messages.goals import GoalLike
from gradserve.results.pictures import MaximizedImage, MaximizedImages, Progress, StylizedImage
from gradserve.transport.aio_connection import AsyncConnection


class AsyncPictureCalls(AsyncConnection):
    """A connection with the calls that make pictures."""

    async def maximize(
        self,
        goals: GoalLike | list[Any],
        *,
        timeout: float = pictures.DEFAULT_TIMEOUT,
        **arguments: Unpack[MaximizeArguments],
    ) -> MaximizedImage | MaximizedImages:
        """The picture that a goal is maximal on, or with a list of goals all of theirs.

        A goal is a class's index or name, a Unit, or a Goal: sums and differences of those, of layers and directions.
        """
        request = await asyncio.to_thread(pictures.maximize_request, goals, **arguments)
        return pictures.maximized(goals, await self._call(self._stubs.gradients.Maximize, request, timeout))

    async def maximize_stream(
        self,
        goals: GoalLike | list[Any],
        *,
        timeout: float = pictures.DEFAULT_TIMEOUT,
        **arguments: Unpack[MaximizeArguments],
    ) -> AsyncIterator[Progress | MaximizedImage | MaximizedImages]:
        """Progress while it is made, and in the end what `maximize` returns; leaving the loop ends the work."""
        request = await asyncio.to_thread(pictures.maximize_request, goals, **arguments)
        async for event in self._stream(self._stubs.gradients.StreamMaximize, request, timeout):
            yield pictures.maximize_event(goals, event)

    async def stylize(
        self,
        content: ImageLike | None,
        style: StyleLike | None = None,
        *,
        timeout: float = pictures.DEFAULT_TIMEOUT,
        **arguments: Unpack[StylizeArguments],
    ) -> StylizedImage:
        """The content in the style of a picture, of a list, or of (picture, weight) pairs (Gatys et al. 2016).

        Without a style the content is reconstructed from its layers; with None as content the style gives a texture.
        """
        request = await asyncio.to_thread(pictures.stylize_request, content, style, **arguments)
        return pictures.stylized(await self._call(self._stubs.gradients.Stylize, request, timeout))

    async def stylize_stream(
        self,
        content: ImageLike | None,
        style: StyleLike | None = None,
        *,
        timeout: float = pictures.DEFAULT_TIMEOUT,
        **arguments: Unpack[StylizeArguments],
    ) -> AsyncIterator[Progress | StylizedImage]:
        """Progress while it is made, and in the end what `stylize` returns; leaving the loop ends the work."""
        request = await asyncio.to_thread(pictures.stylize_request, content, style, **arguments)
        async for event in self._stream(self._stubs.gradients.StreamStylize, request, timeout):
            yield pictures.stylize_event(event)
