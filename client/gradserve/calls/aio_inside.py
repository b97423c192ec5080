"""The calls for asyncio that look inside a network: Inspect, Project."""

import asyncio
from typing import Any, Literal, Unpack, overload

from gradserve.arguments import BatchLike, ImageLike
from gradserve.messages.inspect import (
    ActivationsArguments,
    FieldArguments,
    TableArguments,
    View,
    WeightsArguments,
    inspect_request,
    inspected,
)
from gradserve.messages.project import ProjectArguments, names_of, project_request, projection
from gradserve.results.inspect import Activations, LayerTable, ReceptiveField, Weights
from gradserve.results.project import Projection
from gradserve.transport.aio_connection import AsyncConnection


class AsyncInsideCalls(AsyncConnection):
    """A connection with the calls that look inside a network."""

    @overload
    async def inspect(
        self,
        view: Literal["weights"],
        layer: str,
        *,
        timeout: float | None = ...,
        **arguments: Unpack[WeightsArguments],
    ) -> Weights: ...
    @overload
    async def inspect(
        self,
        view: Literal["activations"],
        layer: str,
        image: ImageLike,
        *,
        timeout: float | None = ...,
        **arguments: Unpack[ActivationsArguments],
    ) -> Activations: ...
    @overload
    async def inspect(
        self, view: Literal["table"], *, timeout: float | None = ..., **arguments: Unpack[TableArguments]
    ) -> LayerTable: ...
    @overload
    async def inspect(
        self,
        view: Literal["receptive_field"],
        layer: str,
        *,
        timeout: float | None = ...,
        **arguments: Unpack[FieldArguments],
    ) -> ReceptiveField: ...
    async def inspect(
        self,
        view: View,
        layer: str = "",
        image: ImageLike | None = None,
        *,
        timeout: float | None = None,
        **arguments: Any,
    ) -> Weights | Activations | LayerTable | ReceptiveField:
        """What is inside a network, as one of four views.

        `inspect("weights", layer)`: its filters as pictures. `inspect("activations", layer, image)`: its maps of a
        picture, those of named `channels` or the strongest. `inspect("table")`: parameters, memory and multiply-adds of
        every layer; with `images` also what the layers do on them. `inspect("receptive_field", layer)`: how far its
        units see.
        """
        request = await asyncio.to_thread(inspect_request, view, layer, image, **arguments)
        return inspected(await self._call(self._stubs.gradients.Inspect, request, timeout))

    async def project(
        self,
        images: BatchLike | None = None,
        *,
        timeout: float | None = None,
        **arguments: Unpack[ProjectArguments],
    ) -> Projection:
        """Pictures among those of the model's picture index, in two dimensions, each with its nearest neighbours.

        The pictures are a list or an array [N, H, W, C], at most 512; None: only what the index has. `method` is "pca"
        or "tsne". `points=5000` returns the places of so many indexed pictures, and `save("map.html")` makes a page of
        them. `layers` of the result tells how well each layer separates the classes.
        """
        request = await asyncio.to_thread(project_request, images, **arguments)
        reply = await self._call(self._stubs.gradients.Project, request, timeout)
        return await asyncio.to_thread(projection, reply, request, names_of(images))
