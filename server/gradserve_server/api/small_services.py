"""The services that need no worker: about the models, and about the directions that callers keep."""

import asyncio

import grpc

from gradserve.v1 import concepts_pb2, concepts_pb2_grpc, models_pb2, models_pb2_grpc

from ..models.served import ServedModels
from ..pool.pool import Pool
from .admission.callers import Callers
from .directions import Directions, DirectionStore, timestamp
from .errors import unavailable
from .request import model_card
from .rpcs.models import model_reply
from .telemetry.request_log import request_log


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """ListModels and GetModel, about the models that the caller may use."""

    def __init__(self, pool: Pool, callers: Callers) -> None:
        self._pool, self._callers = pool, callers

    async def ListModels(
        self, request: models_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.ListModelsResponse:
        """All cards, without layers, and the models that could not be loaded."""
        cards = self.visible()
        default = cards.default if cards.default in {*cards, *cards.unavailable} else ""
        models = [model_reply(card, layers=False) for card in cards.values()]
        reasons = cards.unavailable.items()
        failed = [models_pb2.UnavailableModel(name=name, reason=reason) for name, reason in reasons]
        return models_pb2.ListModelsResponse(models=models, unavailable=failed, default_model=default)

    async def GetModel(
        self, request: models_pb2.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> models_pb2.Model:
        """One card with its layers."""
        return model_reply(model_card(request.name, self.visible()), layers=True)

    def visible(self) -> ServedModels:
        """The models that the caller may use. Raises UNAVAILABLE while the server starts."""
        if not self._pool.cards:
            raise unavailable("the server is starting")
        allowed = self._callers.rights(request_log.get().caller).models
        return self._pool.cards if allowed is None else self._pool.cards.only(allowed)


class DirectionService(concepts_pb2_grpc.DirectionServiceServicer):
    """ListDirections and DeleteDirection, about those that the caller keeps."""

    def __init__(self, callers: Callers, store: DirectionStore) -> None:
        self._callers, self._store = callers, store

    async def ListDirections(
        self, request: concepts_pb2.ListDirectionsRequest, context: grpc.aio.ServicerContext
    ) -> concepts_pb2.ListDirectionsResponse:
        """The caller's directions that have not expired, by name."""
        kept = await asyncio.to_thread(self._own().all)
        messages = [
            concepts_pb2.KeptDirection(
                name=each.name,
                model=each.model,
                weights_digest=each.digest,
                layer=each.layer,
                channels=len(each.vector),
                expires=timestamp(each.expires),
            )
            for each in kept
        ]
        return concepts_pb2.ListDirectionsResponse(directions=messages)

    async def DeleteDirection(
        self, request: concepts_pb2.DeleteDirectionRequest, context: grpc.aio.ServicerContext
    ) -> concepts_pb2.DeleteDirectionResponse:
        """Deletes one of the caller's directions. Raises NOT_FOUND."""
        await asyncio.to_thread(self._own().delete, request.name)
        return concepts_pb2.DeleteDirectionResponse()

    def _own(self) -> Directions:
        return self._store.of(self._callers.owner(request_log.get().caller))
