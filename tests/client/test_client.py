import asyncio
import threading
import time

import grpc
import numpy as np
import pytest

import gradserve
from gradserve import AsyncClient, Client, Method, Rank, Unit, errors
from gradserve.transport import channel
from gradserve.transport.ordered import in_order, in_order_async
from gradserve.v1 import common_pb2

from .fake import CLASSES, SIZE, FakeServer, ramp


def test_the_provenance_tells_of_a_quick_decode(client, photo):
    assert not client.predict(photo).provenance.quick_decode
    assert client.predict(photo, quick_decode=True).provenance.quick_decode
    assert client.explain(photo, "gradient", quick_decode=True).provenance.quick_decode
    assert client.attack(photo, quick_decode=True).provenance.quick_decode


def test_predict(client, server, photo):
    prediction = client.predict(photo, top_k=2, preprocess="whole_image", priority="batch", seed=7, alone=True)
    assert [score.class_name for score in prediction] == CLASSES[:2]
    assert len(prediction) == 2
    assert prediction[0].logit == 9.0
    assert prediction.provenance.seed == 7
    assert prediction.provenance.alone
    assert prediction.provenance.preprocess == "whole_image"
    assert prediction.provenance.precision == "exact"
    assert "goldfish" in str(prediction)
    assert "goldfish" in prediction._repr_html_()
    assert server.requests[0].options.priority == common_pb2.PRIORITY_BATCH


def test_explain_one_method_gives_one_explanation(client, photo):
    found = client.explain(photo, "smooth_grad", samples=25, statistic="variance", target="tabby cat")
    assert isinstance(found, gradserve.Explanation)
    assert found.method == "smooth_grad"
    assert found.parameters == {"samples": 25, "statistic": "variance"}
    assert found.target == 1
    assert found.target_name == "tabby cat"
    assert found.target_value == 4.25
    assert found.map.dtype == np.float32
    assert np.array_equal(found.map, ramp(signed=False))
    assert found.completed_fraction == 1
    assert found.region == gradserve.Region(10, 0, 60, 60, 80, 60)
    assert repr(found) == (
        "<Explanation smooth_grad, samples=25, statistic='variance': tabby cat = 4.25, map 24 x 24, tiny>"
    )


def test_explain_lists_give_explanations(client, photo):
    found = client.explain(photo, ["gradient", Method("grad_cam")], target=[0, Rank(2), Unit("features.0", 3, 1, 2)])
    assert len(found) == 6
    assert found.methods == ["gradient", "grad_cam"]
    assert found["grad_cam"] is found[3]
    assert found["grad_cam", 2] is found[5]
    assert [each.target for each in found[:3]] == [0, 1, Unit("features.0", 3, 1, 2)]
    assert len(found.of("gradient")) == 3
    with pytest.raises(KeyError, match="gradient, grad_cam"):
        found["smooth_grad"]
    assert found._repr_html_().count("<img") == 6
    assert repr(found).count("<Explanation") == 6


@pytest.mark.parametrize("arguments", [{"methods": ["gradient"]}, {"methods": "gradient", "target": [0]}])
def test_a_list_of_one_is_a_list(client, photo, arguments):
    assert isinstance(client.explain(photo, **arguments), gradserve.Explanations)


def test_passes_alone_are_asked_for_and_named(client, photo):
    assert client.explain(photo, "gradient", alone=True).provenance.alone
    assert not client.explain(photo, "gradient").provenance.alone


def test_what_some_methods_tell(client, photo):
    found = client.explain(photo, ["integrated_gradients", "grad_cam", "guided_backprop"], allow_partial=True)
    assert found[0].completeness_gap == 0.0125
    assert found[0].coarse is None
    assert np.array_equal(found[1].coarse, np.eye(3))
    assert found[1].completeness_gap is None
    assert found[2].warnings == ("PARTIALLY_GUIDED",)
    assert found[2].completed_fraction == 0.46
    assert "23 of 50 done" in repr(found[2])


@pytest.mark.parametrize(("format", "tolerance"), [("float32", 0), ("float16", 1e-3), ("png", 1 / 500)])
def test_formats_of_maps(client, photo, format, tolerance):
    found = client.explain(photo, "integrated_gradients", format=format, overlay=True)
    assert found.map.dtype == np.float32
    assert np.abs(found.map - ramp(signed=True)).max() <= tolerance
    assert found.served_overlay is not None


def test_pictures_of_an_explanation(client, photo, photo_path, tmp_path):
    found = client.explain(photo_path, "grad_cam")
    assert found.heatmap().size == (SIZE, SIZE)
    assert found.overlay(scale=1).size == photo.size
    assert found.original().size == photo.size
    assert found.save(tmp_path / "heat.png").stat().st_size > 0
    assert np.array_equal(np.load(found.save(tmp_path / "map.npy")), found.map)
    assert found._repr_png_().startswith(b"\x89PNG")


def test_a_small_photo_is_enlarged_for_its_overlay(client):
    found = client.explain(np.zeros((8, 8), dtype=np.uint8), "grad_cam")
    assert found.overlay().size == (224, 224)
    assert found.overlay(scale=1).size == (8, 8)


def test_many_come_back_in_order(client, photo):
    pictures = [photo.resize((20 + i, 10)) for i in range(30)]
    predictions = client.predict_many(iter(pictures), concurrency=4, model="tiny")
    assert [each.region.image_width for each in predictions] == [20 + i for i in range(30)]
    explained = client.explain_many(pictures[:5], "grad_cam")
    assert [each.region.image_width for each in explained] == [20, 21, 22, 23, 24]


def full(times, retry_after):
    """A call that finds the server full so many times, and then answers with its picture."""
    left = [times]

    def call(image):
        if left[0]:
            left[0] -= 1
            raise errors.ResourceExhausted("full", code=grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=retry_after)
        return image

    return call


def test_many_wait_for_a_full_server():
    assert list(in_order(full(3, 0.001), range(5), 2)) == [0, 1, 2, 3, 4]
    with pytest.raises(gradserve.ResourceExhausted):
        list(in_order(full(1, None), range(5), 2))


async def test_many_wait_for_a_full_server_in_asyncio():
    def asked(call):
        async def answer(image):
            return call(image)

        return answer

    assert [each async for each in in_order_async(asked(full(3, 0.001)), range(5), 2)] == [0, 1, 2, 3, 4]
    with pytest.raises(gradserve.ResourceExhausted):
        [each async for each in in_order_async(asked(full(1, None)), range(5), 2)]


def test_the_first_failure_of_many_is_raised(client, photo):
    found = client.predict_many([photo, b"no image", photo])
    assert next(found).top
    with pytest.raises(gradserve.ServiceError):
        next(found)


def test_models(client):
    assert [card.name for card in client.models()] == ["tiny", "digits"]
    card = client.model()
    assert card.classes == tuple(CLASSES)
    assert card.input_size == (24, 24)
    assert card.precisions == ("exact",)
    assert [layer.name for layer in card.layers] == ["features.0", "classifier"]
    assert card.applies("grad_cam")
    assert not card.applies("deconvnet")
    assert repr(card) == "<ModelCard tiny: 3 classes, 24 x 24, 0.0125 GFLOP>"
    with pytest.raises(gradserve.NotFound):
        client.model("tinny")


def test_health_and_readiness(client, server):
    assert client.health() == "SERVING"
    server.health = b"\x08\x02"
    assert client.health() == "NOT_SERVING"
    threading.Timer(0.3, setattr, (server, "health", b"\x08\x01")).start()
    client.wait_until_ready(5)


def test_waiting_for_a_server_that_never_comes():
    with Client("127.0.0.1:1") as client:
        start = time.monotonic()
        with pytest.raises(gradserve.DeadlineExceeded, match="not ready within"):
            client.wait_until_ready(0.3)
        assert time.monotonic() - start < 3


def test_the_token_is_sent(server, photo):
    with Client(server.target, token="open sesame") as client:
        assert client.predict(photo, model="secret").top


def test_unavailable_is_tried_again_and_nothing_else_is(client, server, photo):
    assert client.predict(photo, model="down:2").top
    assert len(server.requests) == 3
    with pytest.raises(gradserve.ResourceExhausted):
        client.predict(photo, model="full")
    assert len(server.requests) == 4


def test_large_requests_are_tried_again_too(client, server):
    noise = np.random.default_rng(0).integers(0, 255, (700, 700, 3), dtype=np.uint8)
    assert client.predict(noise, model="down:1").top
    assert len(server.requests) == 2


def test_no_retries(server, photo):
    with Client(server.target, retries=0) as client, pytest.raises(gradserve.Unavailable, match="starting"):
        client.predict(photo, model="down:1")
    assert len(server.requests) == 1
    with pytest.raises(ValueError, match="retries is 0 to 4"):
        Client(server.target, retries=9)


def test_timeouts(client, photo):
    with pytest.raises(gradserve.DeadlineExceeded):
        client.predict(photo, model="slow", timeout=0.2)


def test_a_request_that_is_too_large_is_not_sent(client, server):
    with pytest.raises(gradserve.RequestTooLarge, match=r"36\.0 MiB and a server takes 32 MiB"):
        client.predict(np.zeros((4096, 3072, 3), dtype=np.uint8))
    assert not server.requests


def test_a_server_that_knows_no_health(monkeypatch):
    monkeypatch.setattr(channel, "HEALTH", "/other/Check")
    fake = FakeServer()
    fake.server.start()
    with Client(fake.target) as client, pytest.raises(gradserve.Unimplemented):
        client.health()
    fake.server.stop(None)


async def test_async_client_does_the_same(server, photo):
    async with AsyncClient(server.target, timeout=10) as client:
        await client.wait_until_ready(5)
        assert await client.health() == "SERVING"
        one, several = await asyncio.gather(
            client.explain(photo, "smooth_grad", samples=3), client.explain(photo, ["gradient"], target=[0, 1])
        )
        assert one.parameters == {"samples": 3}
        assert len(several) == 2
        assert (await client.predict(photo)).top[0].class_name == "goldfish"
        assert [card.name for card in await client.models()] == ["tiny", "digits"]
        assert (await client.model("tiny")).layers


async def test_async_many(server, photo):
    pictures = [photo.resize((20 + i, 10)) for i in range(20)]
    async with AsyncClient(server.target) as client:
        widths = [each.region.image_width async for each in client.predict_many(pictures, concurrency=3)]
        maps = [each.map async for each in client.explain_many(pictures[:3], "gradient")]
    assert widths == [20 + i for i in range(20)]
    assert len(maps) == 3


async def test_async_errors_and_retries(server, photo):
    async with AsyncClient(server.target) as client:
        with pytest.raises(gradserve.InvalidArgument) as caught:
            await client.predict(photo, model="invalid")
        assert len(caught.value.violations) == 2
        assert caught.value.request_id == "r-1"
        with pytest.raises(gradserve.ResourceExhausted) as full:
            await client.predict(photo, model="full")
        assert full.value.retry_after == 2.5
        assert (await client.predict(photo, model="down:2")).top
        with pytest.raises(gradserve.RequestTooLarge):
            await client.predict(np.zeros((4096, 3072, 3), dtype=np.uint8))
        with pytest.raises(gradserve.DeadlineExceeded):
            await client.predict(photo, model="slow", timeout=0.2)


async def test_async_waiting_for_a_server_that_never_comes():
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(gradserve.DeadlineExceeded):
            await client.wait_until_ready(0.3)


async def test_an_awaited_call_can_be_cancelled(server, photo):
    async with AsyncClient(server.target) as client:
        task = asyncio.create_task(client.predict(photo, model="slow"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
