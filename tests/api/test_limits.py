"""What a gRPC client with its language's usual limit of 4 MiB a reply can ask for."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from serving import PATIENCE, Server, Stubs, methods, picture, values

from gradserve import images
from gradserve.v1 import attack_pb2, explain_pb2
from gradserve.v1 import common_pb2 as pb

SIDE = 1024
FLOAT32, FLOAT16, PNG = (
    explain_pb2.MAP_FORMAT_FLOAT32,
    explain_pb2.MAP_FORMAT_FLOAT16,
    explain_pb2.MAP_FORMAT_PNG,
)


@pytest.fixture(scope="module")
def plain(server: Server) -> Iterator[Stubs]:
    """Without a word about the size of messages."""
    with grpc.insecure_channel(server.address) as channel:
        yield Stubs.of(channel)


def explain(form: explain_pb2.MapFormat) -> explain_pb2.ExplainRequest:
    image, asked = picture(0, SIDE, SIDE), methods(gradient={})
    return explain_pb2.ExplainRequest(
        model="digits", image=image, methods=asked, format=form, preprocess=pb.PREPROCESS_AS_IS
    )


def test_large_maps_arrive_as_float16_and_as_png(stubs: Stubs, plain: Stubs) -> None:
    whole = values(stubs.gradients.Explain(explain(FLOAT32), timeout=PATIENCE).explanations[0].raw)
    assert whole.shape == (SIDE, SIDE)
    with pytest.raises(grpc.RpcError) as caught:
        plain.gradients.Explain(explain(FLOAT32), timeout=PATIENCE)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    half = values(plain.gradients.Explain(explain(FLOAT16), timeout=PATIENCE).explanations[0].raw)
    assert np.allclose(half, whole, rtol=1e-3, atol=1e-7)
    eighth = plain.gradients.Explain(explain(PNG), timeout=PATIENCE).explanations[0]
    levels = images.map_from_png(eighth.png, eighth.low, eighth.high)
    assert np.abs(levels - whole).max() <= 0.51 * (eighth.high - eighth.low) / 255


@pytest.mark.parametrize("form", [FLOAT32, FLOAT16, PNG, 0])
def test_the_maps_of_an_attack_come_in_any_format(stubs: Stubs, form: explain_pb2.MapFormat) -> None:
    (gradient,) = methods(gradient={})
    request = attack_pb2.AttackRequest(
        model="digits", image=picture(0, 8, 8), method={"fgsm": {}}, maps=gradient, maps_format=form
    )
    reply = stubs.gradients.Attack(request, timeout=PATIENCE)
    for found in (reply.map_before, reply.map_after):
        assert found.WhichOneof("map") == ("png" if form == PNG else "raw")
        if form != PNG:
            assert found.raw.dtype == (pb.DTYPE_FLOAT16 if form == FLOAT16 else pb.DTYPE_FLOAT32)
