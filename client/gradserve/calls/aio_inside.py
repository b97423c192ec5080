"""The calls for asyncio that look inside a network: Inspect, Exemplars, Project, Concepts, directions, Dense."""

import asyncio
from typing import Any, Literal, Unpack, overload

from gradserve.arguments import BatchLike, ImageLike, TargetLike
from gradserve.messages import dense
from gradserve.messages.concepts import ConceptsArguments, concept_direction, concepts_request, kept_directions
from gradserve.messages.dense import DenseArguments
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
from gradserve.messages.project import ProjectArguments, names_of, project_request, projection
from gradserve.results.concepts import ConceptDirection, KeptDirection
from gradserve.results.dense import DenseMaps
from gradserve.results.exemplars import Exemplars
from gradserve.results.inspect import Activations, LayerTable, ReceptiveField, Weights
from gradserve.results.project import Projection
from gradserve.transport.aio_connection import AsyncConnection
from gradserve.v1 import concepts_pb2


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

    async def exemplars(
        self, layer: str = "", *, timeout: float | None = None, **arguments: Unpack[ExemplarsArguments]
    ) -> Exemplars:
        """The pictures of a data set that excite the units of a layer most, and where in them.

        Of named `channels`, or of the strongest. The model must be served with an index of pictures. The default layer
        is the last one that is indexed.
        """
        request = exemplars_request(layer, **arguments)
        return exemplars_result(await self._call(self._stubs.gradients.Exemplars, request, timeout))

    async def concepts(
        self,
        concept: BatchLike,
        negatives: BatchLike,
        *,
        timeout: float | None = None,
        **arguments: Unpack[ConceptsArguments],
    ) -> ConceptDirection:
        """The direction in a layer that pictures of a concept have in common, and the classes that depend on it.

        `negatives` are pictures of anything else; of both at least 10 are advised. `gradserve.patterns` draws stripes,
        dots and chequers. `classes` are all, or those that are named; `class_images` are needed at layers other than
        the last. A class is judged by z against `random_directions` between random halves of the pictures. `keep_as`
        keeps the direction on the server.
        """
        request = await asyncio.to_thread(concepts_request, concept, negatives, **arguments)
        return concept_direction(await self._call(self._stubs.gradients.Concepts, request, timeout))

    async def directions(self, *, timeout: float | None = None) -> list[KeptDirection]:
        """The directions that the server keeps for this caller, by name."""
        request = concepts_pb2.ListDirectionsRequest()
        return kept_directions(await self._call(self._stubs.directions.ListDirections, request, timeout))

    async def delete_direction(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a direction that the server keeps for this caller. Raises NotFound for a name that it has not."""
        request = concepts_pb2.DeleteDirectionRequest(name=name)
        await self._call(self._stubs.directions.DeleteDirection, request, timeout)

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
