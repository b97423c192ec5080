"""The service of the Open Inference Protocol, on top of the server's own services."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty

from ... import __version__
from ...pool.pool import Pool
from ..admission.callers import Callers
from ..errors import RequestError
from ..servicer import GradientService
from ..small_services import ModelService
from ..telemetry.request_log import request_log
from ..telemetry.spans import span
from . import infer
from .parameters import read
from .tensors import NAME
from .v2 import inference_pb2 as v2
from .v2 import inference_pb2_grpc

SERVICE = v2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
TENSOR = v2.ModelMetadataResponse.TensorMetadata
ANY = -1  # A side that requests may choose.
# Calls of Triton's that are not served, and what to do instead.
NOT_SERVED = {
    **dict.fromkeys(("RepositoryIndex", "ModelConfig"), "gradserve.v1.ModelService tells of the models"),
    **dict.fromkeys(
        ("RepositoryModelLoad", "RepositoryModelUnload"), "gradserve.v1.ModelManagementService changes the models"
    ),
    **dict.fromkeys(("ModelStatistics", "TraceSetting", "LogSettings"), "the port of the metrics has statistics"),
    "ModelStreamInfer": "call ModelInfer, several times at once if need be",
    **{
        f"{kind}SharedMemory{act}": "send the elements of tensors with the request"
        for kind in ("System", "Cuda")
        for act in ("Status", "Register", "Unregister")
    },
}
T = TypeVar("T")


class InferenceService(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Predictions and maps for clients of Triton and KServe."""

    def __init__(self, gradients: GradientService, models: ModelService, pool: Pool, callers: Callers) -> None:
        self._gradients, self._models, self._pool, self._callers = gradients, models, pool, callers

    async def ServerLive(
        self, request: v2.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> v2.ServerLiveResponse:
        """Always true: a server that answers is live."""
        return v2.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: v2.ServerReadyRequest, context: grpc.aio.ServicerContext
    ) -> v2.ServerReadyResponse:
        """Whether a worker takes tasks."""
        return v2.ServerReadyResponse(ready=self._ready)

    async def ModelReady(
        self, request: v2.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> v2.ModelReadyResponse:
        """Whether that version of the model is loaded, this protocol serves it, and a worker takes tasks."""
        try:
            infer.card_of(request.name, request.version, self._models.visible())
        except RequestError:
            return v2.ModelReadyResponse(ready=False)
        return v2.ModelReadyResponse(ready=self._ready)

    async def ServerMetadata(
        self, request: v2.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> v2.ServerMetadataResponse:
        """The server's name and version."""
        return v2.ServerMetadataResponse(name="gradserve", version=__version__, extensions=["classification"])

    async def ModelMetadata(
        self, request: v2.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> v2.ModelMetadataResponse:
        """The model's tensors, the picture's as FP32 [N, 3, H, W]."""
        card = infer.card_of(request.name, request.version, self._models.visible())
        sides = (ANY, ANY) if card.any_size else (card.height, card.width)
        classes = (ANY, len(card.classes))
        outputs = {"logits": classes, "probabilities": classes, "labels": (ANY, ANY), "map": (ANY, *sides)}
        return v2.ModelMetadataResponse(
            name=card.name,
            versions=[card.digest],
            platform="pytorch",
            inputs=[TENSOR(name=NAME, datatype="FP32", shape=(ANY, 3, *sides))],
            outputs=[
                TENSOR(name=name, datatype="BYTES" if name == "labels" else "FP32", shape=shape)
                for name, shape in outputs.items()
            ],
        )

    async def ModelInfer(
        self, request: v2.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> v2.ModelInferResponse:
        """Predicts and explains each row by tasks of its own, which share passes."""
        asked, entry = read(request), request_log.get()
        for rpc in asked.rpcs:
            self._callers.check_rpc(entry.caller, rpc)
        with self._pool.using() as models:
            bound = await self._gradients.bind(infer.bind, asked, context, models)
            assert isinstance(bound, infer.BoundRows), "infer.bind makes these"
            parts = [part for row in bound.rows for part in row.parts]
            outcomes = await _all([self._gradients.outcome(part.task) for part in parts])
            for part, outcome in zip(parts, outcomes, strict=True):
                self._gradients.count(part, outcome)
            with span("encode"):
                return await self._gradients.in_thread(infer.reply, asked, bound, outcomes, entry.id)

    @property
    def _ready(self) -> bool:
        return bool(self._pool.cards and self._pool.members)


async def _all(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The values of all. Raises the first error, when the others have been cancelled."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def not_served() -> grpc.GenericRpcHandler:
    """Handlers that refuse the protocol's other calls with a sentence."""
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(_refusal(name, hint), Empty.FromString, Empty.SerializeToString)
        for name, hint in NOT_SERVED.items()
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


def _refusal(name: str, hint: str) -> Any:
    async def refuse(request: Empty, context: grpc.aio.ServicerContext) -> None:
        raise RequestError(grpc.StatusCode.UNIMPLEMENTED, "NOT_SERVED", f"{name} is not served: {hint}")

    return refuse
