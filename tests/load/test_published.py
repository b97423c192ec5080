"""The published contract: its callers at today's server, for every RPC, and today's client at a server of it."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from PIL import Image
from serving import PATIENCE, Server

import gradserve
from gradserve.v1 import models_pb2, service_pb2

IMAGE = Path(__file__).parents[2] / "protos" / "published.binpb"
SERVICES = [service_pb2.DESCRIPTOR.services_by_name["GradientService"]]
SERVICES += [models_pb2.DESCRIPTOR.services_by_name["ModelService"]]


def published() -> DescriptorPool:
    """The descriptors of the published contract, apart from those of today's stubs."""
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(IMAGE.read_bytes()).file:
        pool.Add(file)
    return pool


POOL = published()
RPCS = [rpc for each in SERVICES for rpc in POOL.FindServiceByName(each.full_name).methods]
TODAY = {rpc.full_name: rpc for each in SERVICES for rpc in each.methods}


def picture() -> dict[str, Any]:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((64, 64)).save(file, "PNG")
    return {"encoded": file.getvalue()}


def asked(rpc: str) -> dict[str, Any]:
    """Fields of a request that has an answer."""
    image = {"image": picture(), "model": "digits"}
    goals = [{"summands": [{"target": {"class_index": 3}}]}]
    maximize = {"model": "small", "goals": goals, "settings": {"steps": 2}}
    stylize = {"model": "small", "content": picture(), "styles": [{"image": picture()}], "settings": {"steps": 2}}
    return {
        "Predict": image,
        "Explain": image | {"methods": [{"gradient": {}}, {"grad_cam": {}}]},
        "Attack": image | {"method": {"pgd": {"steps": 2}}, "eps": 0.1},
        "Maximize": maximize,
        "StreamMaximize": maximize,
        "Stylize": stylize,
        "StreamStylize": stylize,
        "Influence": image,
        "Suspects": {"model": "digits", "top": 3},
        "Embed": image,
        "ListModels": {},
        "GetModel": {"name": "digits"},
    }[rpc]


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with server.channel() as channel:
        yield channel


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)
def test_a_caller_with_published_stubs(channel: grpc.Channel, rpc: Any) -> None:
    request = filled(GetMessageClass(rpc.input_type)(), asked(rpc.name))
    path = f"/{rpc.containing_service.full_name}/{rpc.name}"
    if rpc.server_streaming:
        replies = list(channel.unary_stream(path)(request.SerializeToString(), timeout=PATIENCE))
    else:
        replies = [channel.unary_unary(path)(request.SerializeToString(), timeout=PATIENCE)]
    assert replies
    for reply in replies:
        read = GetMessageClass(rpc.output_type).FromString(reply)
        now = GetMessageClass(TODAY[rpc.full_name].output_type).FromString(reply)
        assert read.ByteSize() > 0
        contains(json_format.MessageToDict(now), json_format.MessageToDict(read), rpc.name)


def filled(message: Any, fields: dict[str, Any]) -> Any:
    """Sets fields by name; bytes as they are."""
    for name, value in fields.items():
        field = getattr(message, name)
        if isinstance(value, dict):
            field.SetInParent()
            filled(field, value)
        elif isinstance(value, list):
            for each in value:
                filled(field.add(), each)
        else:
            setattr(message, name, value)
    return message


def contains(now: Any, read: Any, path: str) -> None:
    """Whatever the published stubs read has the same name and value in today's."""
    if isinstance(read, dict):
        for name, value in read.items():
            assert name in now, f"{path}.{name} has gone"
            contains(now[name], value, f"{path}.{name}")
    elif isinstance(read, list):
        assert len(now) == len(read), path
        for i, (a, b) in enumerate(zip(now, read, strict=True)):
            contains(a, b, f"{path}[{i}]")
    else:
        assert now == read, path


class PublishedServer(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A server of the published contract: it reads nothing else of a request, and writes nothing else into a reply."""

    def __init__(self, channel: grpc.Channel) -> None:
        """`channel`: to today's server, which it asks."""
        self._channel = channel
        self._rpcs = {f"/{rpc.containing_service.full_name}/{rpc.name}": rpc for rpc in RPCS}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        rpc = self._rpcs.get(details.method)
        if rpc is None:
            return None
        kind = "unary_stream" if rpc.server_streaming else "unary_unary"
        return getattr(grpc, f"{kind}_rpc_method_handler")(partial(getattr(self, f"_{kind}"), rpc, details.method))

    def _unary_unary(self, rpc: Any, path: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        call = self._channel.unary_unary(path)
        return known(rpc.output_type, call(known(rpc.input_type, request), timeout=PATIENCE))

    def _unary_stream(self, rpc: Any, path: str, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for reply in self._channel.unary_stream(path)(known(rpc.input_type, request), timeout=PATIENCE):
            yield known(rpc.output_type, reply)


def known(kind: Any, data: bytes) -> bytes:
    """What the published contract knows of a message."""
    message = GetMessageClass(kind).FromString(data)
    message.DiscardUnknownFields()
    return message.SerializeToString()


@pytest.fixture(scope="module")
def client(channel: grpc.Channel) -> Iterator[gradserve.Client]:
    """Today's client, at a server of the published contract."""
    with ThreadPoolExecutor(2) as threads:
        published_server = grpc.server(threads, [PublishedServer(channel)])
        port = published_server.add_insecure_port("127.0.0.1:0")
        published_server.start()
        with gradserve.Client(f"127.0.0.1:{port}", timeout=PATIENCE) as client:
            yield client
        published_server.stop(None).wait()


def test_the_client_at_a_server_of_the_published_contract(client: gradserve.Client) -> None:
    photo = np.asarray(Image.open(io.BytesIO(picture()["encoded"])))
    assert {"digits", "small"} <= {model.name for model in client.models()}
    assert client.model("digits").layers
    digits = client.predict(photo, model="digits")
    assert digits.top[0].class_name in client.model("digits").classes
    maps = client.explain(photo, ["gradient", "grad_cam"], model="digits", target=3)
    assert [np.isfinite(each.map).all() for each in maps] == [True, True]
    assert client.attack(photo, "pgd", model="digits", eps=0.1, steps=2).certificate.verdict
    assert client.influence(photo, model="digits").helpful
    assert len(client.suspects(model="digits", top=3).examples) == 3
    assert client.embed(photo, model="digits").values.size
    assert client.maximize(3, model="small", steps=2).png
    assert client.stylize(photo, [photo], model="small", steps=2).png
    assert list(client.maximize_stream(3, model="small", steps=2))
    assert list(client.stylize_stream(photo, [photo], model="small", steps=2))


def test_what_such_a_server_lacks_is_told(client: gradserve.Client) -> None:
    with pytest.raises(gradserve.Unimplemented):
        client.differentiate(np.zeros((1, 8, 8, 3), np.uint8), model="digits")
