"""Dense through a real server, and `gradserve dense`: maps, tiles, bad input."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from serving import PATIENCE, Stubs, picture, refused, shared, values
from zoo import prepared

from gradserve import Client, Rank
from gradserve.cli import main
from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import dense_pb2, predict_pb2
from gradserve_server.api import servicer
from gradserve_server.api.admission.admission import Admission
from gradserve_server.api.admission.callers import Callers
from gradserve_server.api.admission.tokens import Rights
from gradserve_server.api.errors import Full, RequestError, failure
from gradserve_server.api.request import CallContext
from gradserve_server.api.rpcs import dense
from gradserve_server.config import LimitSettings
from gradserve_server.metrics import Metrics
from gradserve_server.models.served import ServedModels
from gradserve_server.models.tiles import DenseHead
from gradserve_server.pool.wire import Failure, Outcome, Task

PHOTO = picture(3, 160, 224)


def ask(stubs: Stubs, **fields: Any) -> dense_pb2.DenseResponse:
    request = dense_pb2.DenseRequest(**{"model": "small", "image": PHOTO, **fields})
    reply: dense_pb2.DenseResponse = stubs.gradients.Dense(request, timeout=PATIENCE)
    return reply


def test_the_map_and_the_logits_of_the_whole_picture(stubs: Stubs) -> None:
    reply = ask(stubs, targets=[{"rank": 1}, {"class_index": 5}])
    asked = predict_pb2.PredictRequest(model="small", image=PHOTO, preprocess=pb.PREPROCESS_AS_IS, top_k=1000)
    whole = {each.class_index: each for each in stubs.gradients.Predict(asked, timeout=PATIENCE).top}
    best = max(whole.values(), key=lambda each: each.logit)
    assert [each.score.class_index for each in reply.maps] == [best.class_index, 5]
    assert reply.top[0].class_index == best.class_index
    logits, probabilities = values(reply.logits), values(reply.probabilities)
    assert logits.shape == probabilities.shape == (2, 5, 7)
    assert (reply.stride, reply.height, reply.width, reply.tiles) == (32, 160, 224, 1)
    for i, each in enumerate(reply.maps):
        right = whole[each.score.class_index].logit
        assert each.score.logit == pytest.approx(right, rel=1e-4)
        assert logits[i].mean() == pytest.approx(right, rel=1e-4)
        assert probabilities[i, each.y, each.x] == probabilities[i].max() == pytest.approx(each.largest)
        drawn = Image.open(io.BytesIO(each.png))
        assert (drawn.width / drawn.height, drawn.mode) == (7 / 5, "RGB")
    assert reply.provenance.precision == pb.PRECISION_EXACT


def test_a_size_is_that_in_which_the_model_sees_the_picture(stubs: Stubs) -> None:
    reply = ask(stubs, size={"longer": 448})
    assert (reply.height, reply.width) == (320, 448)
    assert values(reply.logits).shape == (1, 10, 14)
    assert (reply.region.image_width, reply.region.image_height) == (224, 160)


def test_tiles(stubs: Stubs) -> None:
    size = {"width": 1400, "height": 600}
    whole, tiled = ask(stubs, size=size), ask(stubs, size=size, tile=800)
    assert whole.tiles == 1 < tiled.tiles
    right = values(whole.logits)
    assert np.abs(values(tiled.logits) - right).max() <= 1e-5 * np.abs(right).max()


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({"tile": 100}, "tile", "must be from "),
        ({"tile": 0}, "tile", "must be from "),
        ({"tile": 4000}, "tile", "to 1024 for small"),
        ({"targets": [{"class_index": i} for i in range(17)]}, "targets", "at most 16"),
        ({"targets": [{"class_index": 1000}]}, "targets[0].class_index", "1000"),
        ({"targets": [{"class_name": "no such class"}]}, "targets[0].class_name", "no such class"),
        ({"targets": [{"rank": 1}, {"unit": {"layer": "features", "channel": 1}}]}, "targets[1]", "a class or a rank"),
        ({"targets": [{"rank": 1}, {"direction": {"layer": "features"}}]}, "targets[1]", "a class or a rank"),
        ({"size": {"longer": 6}}, "size", "sides of at least"),
        ({"size": {"longer": 20_000}}, "size", "set a smaller size"),
        ({"size": {"longer": 4_000_000_000}}, "size", "set a smaller size"),
        ({"size": {"width": 2000, "height": 20}}, "size", "20 to 1"),
        ({"image": {"encoded": b"no picture"}}, "image", "not a picture"),
    ],
)
def test_bad_input(stubs: Stubs, fields: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(stubs, **fields)
    found = refused(caught.value)
    assert found.code == "INVALID_ARGUMENT"
    assert told in found.violations[field]


@pytest.mark.parametrize(
    ("model", "told"), [("digits", "are a convolution only where"), ("linear", "takes pictures of 12x8 alone")]
)
def test_networks_without_such_a_head(stubs: Stubs, model: str, told: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(stubs, model=model)
    found = refused(caught.value)
    assert found.code == "FAILED_PRECONDITION"
    assert f"Dense does not apply to {model}" in found.text
    assert told in found.text


HEAD = DenseHead(layer="features", channels=1000, least=17, stride=16, offset=2.5, before=6, behind=6)


def bound(served: ServedModels, **fields: Any) -> dense.Bound:
    request = dense_pb2.DenseRequest(**{"image": PHOTO, **fields})
    return dense.bind(request, CallContext("id", time.monotonic(), None, served, LimitSettings()))


def test_the_first_task_for_a_model_tries_its_head_at_a_price() -> None:
    card = prepared("squeezenet1_1").card
    served = ServedModels([card])
    first = bound(served)
    assert dense.is_trial(first)
    assert first.task.cost > 8 * card.gflop
    served.dense_heads[card.name] = HEAD
    assert not dense.is_trial(bound(served))
    assert not dense.is_trial(bound(served.only([card.name]))), "who may use some models alone knows it too"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"size": {"longer": 2048}, "targets": [{"rank": 1}] * 4},
            "4 classes of .*; name fewer classes, or set a smaller",
        ),
        ({"size": {"longer": 4000}}, "maps of a class of .*x2857; set a smaller size"),
    ],
)
def test_maps_have_no_more_cells_than_a_reply_takes(fields: dict[str, Any], told: str) -> None:
    card = replace(prepared("squeezenet1_1").card, classes=("a", "b"))
    served = ServedModels([card])
    served.dense_heads[card.name] = replace(HEAD, stride=1)
    with pytest.raises(RequestError, match=told):
        bound(served, **fields)
    assert bound(served, size={"longer": 1024}).task.arguments.targets


def test_there_are_not_more_tiles_than_a_few_thousand() -> None:
    served = ServedModels([prepared("squeezenet1_1").card])
    served.dense_heads["squeezenet1_1"] = HEAD
    with pytest.raises(RequestError, match=r"tile: makes \d+ tiles of 4000x2857, and may make 4096; set a larger one"):
        bound(served, size={"longer": 4000}, tile=HEAD.least_tile)
    assert bound(served, size={"longer": 4000}, tile=400).task.arguments.tile == (400, 400)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"targets": [{"class_name": "no such class"}]}, "no such class"),
        ({"size": {"longer": 6}}, "sides of at least"),
        ({"size": {"longer": 20_000}}, "set a smaller size"),
        ({"tile": 4000}, "tile: must be from"),
        ({"image": {"encoded": b"no picture"}}, "not a picture"),
        ({"options": {"precision": pb.PRECISION_FAST}}, "EXACT alone"),
    ],
)
def test_a_request_that_is_wrong_has_no_head_tried(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        bound(ServedModels([prepared("squeezenet1_1").card]), **fields)


def test_a_network_of_one_size_is_refused_without_a_trial() -> None:
    with pytest.raises(RequestError, match="takes pictures of 12x8 alone"):
        bound(ServedModels([prepared("linear").card]))


def service_of(tasks: list[Task], callers: Callers) -> servicer.GradientService:
    """A service of one model whose worker finds its head, and has no time for maps; tasks are added to the list."""

    async def stream(task: Task) -> AsyncIterator[Outcome]:
        tasks.append(task)
        trial = task.rpc == dense.TRIAL
        yield Outcome(task.id, HEAD) if trial else Outcome(task.id, failure=Failure("deadline", ""))

    pool: Any = SimpleNamespace(cards=ServedModels([prepared("squeezenet1_1").card]), members=[], stream=stream)
    pool.using = lambda: nullcontext(pool.cards)
    limits, metrics = LimitSettings(), Metrics()
    return servicer.GradientService(pool, limits, metrics, Admission(pool, limits, metrics), callers)


def test_the_trial_takes_none_of_the_time_that_the_answer_has() -> None:
    """Both end at the deadline of the call, 10 s after it came."""
    tasks: list[Task] = []
    service = service_of(tasks, Callers(None, {}))
    left: Iterator[float] = iter([10.0, 6.0])

    async def ask_twice() -> None:
        servicer.request_log.set(servicer.RequestLog("1", deadline=10.0))
        with pytest.raises(RequestError, match="or set a smaller size"):
            await service.Dense(dense_pb2.DenseRequest(image=PHOTO), SimpleNamespace(time_remaining=lambda: next(left)))

    asyncio.run(ask_twice())
    assert [task.rpc for task in tasks] == ["dense_head", "dense"]
    assert tasks[0].deadline == tasks[1].deadline > time.monotonic() + 9


def test_a_caller_with_a_rate_is_not_refused_between_the_trial_and_the_answer() -> None:
    tasks: list[Task] = []
    callers = Callers(None, {})
    callers._rights[""] = Rights(sha256="0" * 64, gflop_per_second=0.01)
    service = service_of(tasks, callers)
    context = SimpleNamespace(time_remaining=lambda: 10.0)

    async def ask_twice() -> None:
        servicer.request_log.set(servicer.RequestLog("1", deadline=10.0))
        with pytest.raises(RequestError, match="or set a smaller size"):
            await service.Dense(dense_pb2.DenseRequest(image=PHOTO), context)
        with pytest.raises(Full, match="and has used more"):
            await service.Dense(dense_pb2.DenseRequest(image=PHOTO), context)

    asyncio.run(ask_twice())
    assert [task.rpc for task in tasks] == ["dense_head", "dense"]


def test_a_trial_for_which_there_was_no_time_tells_that_the_next_request_goes_on() -> None:
    trial = bound(ServedModels([prepared("squeezenet1_1").card])).task
    assert "the next one goes on where it ended" in failure(Failure("deadline", ""), trial).text


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setenv("GRADSERVE_SERVER", shared().address)
    monkeypatch.chdir(tmp_path)
    pixels = np.frombuffer(PHOTO.tensor.data, np.uint8).reshape(160, 224, 3)
    Image.fromarray(pixels).save("photo.png")
    asked = ["dense", "photo.png", "--model", "small", "--target", "rank:1", "--target", "5", "--size", "448", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert not ended.value.code
    said = json.loads(capsys.readouterr().out)
    assert len(said["saved"]) == 2
    assert all(Image.open(path).size == (224, 160) for path in said["saved"])
    with Client(shared().address) as client:
        found = client.dense("photo.png", [Rank(1), 5], model="small", size=448)
    assert [each["score"]["class_index"] for each in said["maps"]] == [each.score.class_index for each in found]
    with pytest.raises(SystemExit):
        main([*asked[:-1], "--out", "maps.npz"])
    with np.load("maps.npz") as file:
        assert np.allclose(file["logits"], [each.logits for each in found], rtol=1e-4, atol=1e-5)
