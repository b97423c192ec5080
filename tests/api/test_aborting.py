"""What is left in memory of calls that ended with an error."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from gradserve.v1 import predict_pb2, service_pb2_grpc
from gradserve_server.api.admission.admission import Admission
from gradserve_server.api.admission.callers import Callers
from gradserve_server.api.errors import invalid
from gradserve_server.api.transport.interceptor import RequestInterceptor
from gradserve_server.api.transport.unread import UnreadReplies
from gradserve_server.config import LimitSettings
from gradserve_server.metrics import Metrics
from gradserve_server.models.served import ServedModels

CALLS = 30


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Only what nothing refers to any more is freed meanwhile."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def calls_in_memory() -> int:
    """How many of gRPC's own objects of calls there are."""
    return Counter(type(each).__name__ for each in gc.get_objects())["RPCState"]


class Refusing(service_pb2_grpc.GradientServiceServicer):
    """Refuses every Predict."""

    async def Predict(self, request: Any, context: Any) -> Any:
        """Finds a fault in every request."""
        raise invalid([("image", "is none")])


async def test_a_call_that_ends_with_an_error_leaves_nothing(no_garbage_collection: None) -> None:
    """Else a connection's streams would be held by calls that have ended, and others be refused for them."""
    pool: Any = SimpleNamespace(cards=ServedModels(), members=[], outstanding=0.0, queue_seconds=None)
    metrics = Metrics()
    admission = Admission(pool, LimitSettings(), metrics)
    interceptor = RequestInterceptor(metrics, Callers(None, {}), admission, UnreadReplies(60, 1))
    server = grpc.aio.server(interceptors=[interceptor])
    service_pb2_grpc.add_GradientServiceServicer_to_server(Refusing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    before = calls_in_memory()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.GradientServiceStub(channel)
        for _ in range(CALLS):
            with pytest.raises(grpc.aio.AioRpcError, match="is none"):
                await stub.Predict(predict_pb2.PredictRequest())
        await asyncio.sleep(0.1)
        assert calls_in_memory() - before < CALLS / 3, "some are being prepared for the next calls"
    await server.stop(0)
