"""Calls of every RPC that the server offers, found by their descriptors, and what becomes of each."""

import importlib
import pkgutil
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from hypothesis import strategies as st
from serving import PATIENCE, picture
from valid_requests import valid_inference, valid_requests

from gradserve import v1
from gradserve_server.api import reflection
from gradserve_server.api.inference.v2 import inference_pb2

from .damage import damaged, seldom
from .messages import changed, messages

MAX_SECONDS = 5.0  # That a call may take; a valid one takes a small part of it.
ENDLESS = {"/grpc.health.v1.Health/Watch": 0.1}  # Seconds for calls that only their caller ends.
TOO_SHORT = [1e-9, 0.001, 0.005, 0.02, 0.1]  # Seconds, for some or all calls.
CANCELLED_AFTER = [*[None] * 15, 0.0, 0.003, 0.03]  # Seconds after which the caller cancels.
PICTURE = picture(0, 8, 8)
MODELS = ("digits", "small", "linear")
COMPRESSIONS = [0, 0, 0, int(grpc.Compression.Gzip), int(grpc.Compression.Deflate)]  # Numbers, to be printed as such.
RUBBISH = ["", " ", "Bearer", "Bearer ", "Bearer x", "Basic eDp5", "-", "0", "%00", '{"a": [', "a" * 64, "b" * 3000]
RUBBISH += ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "ff-" + "0" * 32 + "-" + "0" * 16 + "-00"]
TEXT = st.sampled_from(RUBBISH) | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80)
METADATA = st.lists(
    st.tuples(st.sampled_from(["x-request-id", "authorization", "traceparent", "tracestate", "baggage"]), TEXT)
    | st.tuples(st.just("odd-bin"), st.binary(max_size=80)),
    max_size=4,
)


def services() -> Iterator[ServiceDescriptor]:
    """Those of the package gradserve.v1, that of the Open Inference Protocol, and those that come with gRPC."""
    modules = [importlib.import_module(f"gradserve.v1.{m.name}") for m in pkgutil.iter_modules(v1.__path__)]
    files = [module.DESCRIPTOR for module in modules if hasattr(module, "DESCRIPTOR")]
    for file in (*files, inference_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR):
        yield from file.services_by_name.values()
    for name in reflection.NAMES:
        yield descriptor_pool.Default().FindServiceByName(name)


def path(rpc: MethodDescriptor) -> str:
    """Its name on the wire."""
    return f"/{rpc.containing_service.full_name}/{rpc.name}"


RPCS = {path(rpc): rpc for service in services() for rpc in service.methods}


class Call(NamedTuple):
    """An RPC with all that is sent; times in seconds."""

    rpc: str
    requests: list[bytes]
    timeout: float = MAX_SECONDS
    cancelled_after: float | None = None
    metadata: list[tuple[str, str | bytes]] = []  # noqa: RUF012
    compression: int = 0


class Outcome(NamedTuple):
    """How a call ended."""

    code: str
    error: grpc.RpcError | None
    replies: list[bytes]


def valid(model: str) -> dict[str, Any]:
    """The valid requests about a model by the names of their RPCs."""
    return {**valid_requests(model, PICTURE), "ModelInfer": valid_inference(model, PICTURE)}


def valid_calls() -> list[Call]:
    """One of each RPC that has a valid request, on each model."""
    return [
        Call(name, [request.SerializeToString()], timeout=PATIENCE)
        for model in MODELS
        for rpc, request in valid(model).items()
        for name in RPCS
        if name.endswith(f"/{rpc}")
    ]


@st.composite
def requests(draw: Any, rpc: MethodDescriptor) -> bytes:
    """A valid request of the RPC, changed and damaged or not; of an RPC that has none here, any message."""
    whole = valid(draw(st.sampled_from(MODELS))).get(rpc.name)
    message = draw(messages(rpc.input_type) if whole is None else changed(whole))
    data = message.SerializeToString()
    return draw(damaged(data)) if draw(seldom(8)) else data


@st.composite
def calls(draw: Any, rpcs: Sequence[MethodDescriptor]) -> Call:
    """Calls of one of these RPCs; hypothesis prefers the first."""
    rpc = draw(st.sampled_from(rpcs))
    timeout = ENDLESS.get(path(rpc), MAX_SECONDS)
    return Call(
        path(rpc),
        draw(st.lists(requests(rpc), max_size=3) if rpc.client_streaming else st.tuples(requests(rpc)).map(list)),
        draw(st.sampled_from(TOO_SHORT)) if draw(seldom(8)) else timeout,
        draw(st.sampled_from(CANCELLED_AFTER)),
        draw(METADATA),
        draw(st.sampled_from(COMPRESSIONS)),
    )


def send(channel: grpc.Channel, call: Call) -> Outcome:
    """Makes the call, and cancels it after its time; reads all of a stream."""
    rpc, replies = RPCS[call.rpc], []
    kind = f"{'stream' if rpc.client_streaming else 'unary'}_{'stream' if rpc.server_streaming else 'unary'}"
    make: Any = getattr(channel, kind)(call.rpc)
    begin = make if rpc.server_streaming else make.future
    sent = iter(call.requests) if rpc.client_streaming else call.requests[0]
    running = begin(sent, timeout=call.timeout, metadata=call.metadata, compression=call.compression)
    if call.cancelled_after is not None:
        time.sleep(call.cancelled_after)
        running.cancel()
    try:
        replies += running if rpc.server_streaming else [running.result()]
    except grpc.FutureCancelledError:
        return Outcome("CANCELLED", None, [])
    except grpc.RpcError as error:
        return Outcome(error.code().name, error, replies)
    return Outcome("OK", None, replies)


def reply_of(rpc: str, data: bytes) -> Any:
    """The message that answers it."""
    return GetMessageClass(RPCS[rpc].output_type).FromString(data)
