"""The calls for asyncio that look inside a network or all over a picture: Inspect and Dense."""

import asyncio
from typing import Any, Literal, Unpack, overload

from gradserve.arguments import ImageLike, TargetLike
from gradserve.messages import dense
from gradserve.messages.dense import DenseArguments
from gradserve.messages.inspect import (
    ActivationsArguments,
    FieldArguments,
    TableArguments,
    View,
    WeightsArguments,
    inspect_request,
    inspected,
)
from gradserve.results.dense import DenseMaps
from gradserve.results.inspect import Activations, LayerTable, ReceptiveField, Weights
from gradserve.transport.aio_connection import AsyncConnection


class AsyncInsideCalls(AsyncConnection):
    """A connection with the calls that look inside a network, or all over a picture."""

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

    async def dense(
        self,
        image: ImageLike,
        targets: TargetLike | list[Any] | None = None,
        *,
        timeout: float | None = None,
        **arguments: Unpack[DenseArguments],
    ) -> DenseMaps:
        """Where in a picture of any size classes score high: a map of each.

        A target is a class's index or name, or a Rank; a list has up to 16, None is the predicted class. The model sees
        the picture in its own `size` or another. One that is too large for that is computed in tiles, which agree with
        the whole.
        """
        request = await asyncio.to_thread(dense.dense_request, image, targets, **arguments)
        return dense.dense_maps(request, await self._call(self._stubs.gradients.Dense, request, timeout))
