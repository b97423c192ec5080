"""The calls for asyncio that look inside a network: Inspect, Exemplars."""

import asyncio
from typing import Any, Literal, Unpack, overload

from gradserve.arguments import ImageLike
from gradserve.messages.exemplars import ExemplarsArguments, exemplars_request, exemplars_result
from gradserve.messages.inspect import (
    ActivationsArguments,
    FieldArguments,
    TableArguments,
    View,
    WeightsArguments,
    inspect_request,
    inspected,
)
from gradserve.results.exemplars import Exemplars
from gradserve.results.inspect import Activations, LayerTable, ReceptiveField, Weights
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

    async def exemplars(
        self, layer: str = "", *, timeout: float | None = None, **arguments: Unpack[ExemplarsArguments]
    ) -> Exemplars:
        """The pictures of a data set that excite the units of a layer most, and where in them.

        Of named `channels`, or of the strongest. The model must be served with an index of pictures. The default layer
        is the last one that is indexed.
        """
        request = exemplars_request(layer, **arguments)
        return exemplars_result(await self._call(self._stubs.gradients.Exemplars, request, timeout))
