"""Requests that are refused under load: before their pictures are decoded, and without a thread."""

import asyncio
import io
import time
from collections import UserList
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from zoo import prepared

from gradserve.v1 import (
    attack_pb2,
    certify_pb2,
    common_pb2,
    concepts_pb2,
    dense_pb2,
    differentiate_pb2,
    explain_pb2,
    influence_pb2,
    inspect_pb2,
    maximize_pb2,
    predict_pb2,
    project_pb2,
    service_pb2,
    stylize_pb2,
)
from gradserve_server.api import servicer
from gradserve_server.api.admission.admission import Admission
from gradserve_server.api.admission.callers import Callers
from gradserve_server.api.errors import Full
from gradserve_server.api.pictures import images
from gradserve_server.api.request import CallContext
from gradserve_server.api.rpcs import exemplars, influence, maximize, stylize
from gradserve_server.config import LimitSettings
from gradserve_server.metrics import Metrics
from gradserve_server.models.card import ModelCard
from gradserve_server.models.served import ServedModels
from gradserve_server.pool.members import Member
from gradserve_server.pool.wire import Ready, Task


@cache
def card() -> ModelCard:
    return replace(prepared("resnet18").card, index="index", pictures="pictures")


LIMITS = LimitSettings()
RPCS = [rpc.name for rpc in service_pb2.DESCRIPTOR.services_by_name["GradientService"].methods]
SIDEWAYS = {0x0112: 6}  # The EXIF tag of the orientation.


def file(form: str = "JPEG", **options: Any) -> common_pb2.Image:
    """A picture 96 pixels wide and 64 high, as it is stored."""
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(data, form, **options)
    return common_pb2.Image(encoded=data.getvalue())


def sideways() -> common_pb2.Image:
    exif = Image.Exif()
    exif.update(SIDEWAYS)
    return file(exif=exif)


PICTURE = file()
GOALS = [{"summands": [{"target": {"class_index": 3}}]}]
MAXIMIZE = maximize_pb2.MaximizeRequest(image=PICTURE, goals=GOALS)
STYLIZE = stylize_pb2.StylizeRequest(content=PICTURE, styles=[{"image": PICTURE}])
AS_IS = common_pb2.PREPROCESS_AS_IS
EXPLAIN = explain_pb2.ExplainRequest(image=PICTURE, preprocess=AS_IS, methods=[{"gradient": {}}])
REQUESTS = {
    "Predict": predict_pb2.PredictRequest(image=PICTURE, preprocess=AS_IS),
    "Explain": EXPLAIN,
    "StreamExplain": EXPLAIN,
    "Attack": attack_pb2.AttackRequest(image=PICTURE, preprocess=AS_IS, method={"pgd": {}}),
    "Certify": certify_pb2.CertifyRequest(image=PICTURE, preprocess=AS_IS),
    "Dense": dense_pb2.DenseRequest(image=PICTURE),
    "Inspect": inspect_pb2.InspectRequest(table={"images": [PICTURE]}),
    "Concepts": concepts_pb2.ConceptsRequest(concept_images=[PICTURE] * 3, negative_images=[PICTURE] * 3),
    "Project": project_pb2.ProjectRequest(images=[PICTURE] * 3),
    "Maximize": MAXIMIZE,
    "StreamMaximize": MAXIMIZE,
    "Stylize": STYLIZE,
    "StreamStylize": STYLIZE,
    "Influence": influence_pb2.InfluenceRequest(image=PICTURE, what_if=[{"rows": range(1000)}]),
    "Embed": influence_pb2.EmbedRequest(image=PICTURE),
    "Differentiate": differentiate_pb2.DifferentiateRequest(images=[PICTURE] * 3, goals=GOALS * 3),
}


@pytest.fixture(autouse=True)
def index(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's indexes, of which nothing but their manifests is read."""
    index = SimpleNamespace(manifest=SimpleNamespace(methods=("projected",)))
    monkeypatch.setattr(influence, "opened", lambda path, digest: index)
    layer = SimpleNamespace(name="layer", channels=8, tsne=False)
    pictures = UserList([0] * 1000)
    pictures.manifest = SimpleNamespace(layers=[layer])  # type: ignore[attr-defined]
    monkeypatch.setattr(exemplars, "opened", lambda path, digest: pictures)


def service(outstanding_seconds: float) -> servicer.GradientService:
    """Before one worker that has so many seconds of work of the same caller."""
    work = Task("", "predict", card().name, np.zeros((1, 1, 3), np.uint8), cost=outstanding_seconds)
    kinds = [(card().name, precision) for precision in card().precisions]
    member = Member(Ready((card(),), "cpu", dict.fromkeys(kinds, 1.0), dict.fromkeys(kinds, 1)), lambda message: None)
    member.pending = {str(i): SimpleNamespace(task=work) for i in range(10)}  # type: ignore[misc]
    facts: Any = {"cards": ServedModels([card()]), "members": [member], "outstanding": 1.0, "queue_seconds": 1e-3}
    pool: Any = SimpleNamespace(**facts)
    pool.using = lambda: nullcontext(pool.cards)
    metrics = Metrics()
    return servicer.GradientService(pool, LIMITS, metrics, Admission(pool, LIMITS, metrics), Callers(None, {}))


def never(*_: Any) -> Any:
    raise AssertionError("a refused request came so far")


@pytest.mark.parametrize("name", [name for name in RPCS if name not in servicer.LOOKED_UP])
def test_a_request_that_would_wait_too_long_is_refused_without_a_thread(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert name in REQUESTS, f"tests/api/test_refusals.py has no request of {name}"
    busy = service(100.0)
    monkeypatch.setattr(images, "decode", never)

    async def ask() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", never)
        servicer.request_log.set(servicer.RequestLog("1"))
        context: Any = SimpleNamespace(time_remaining=lambda: None)
        await getattr(busy, name)(REQUESTS[name], context)

    with pytest.raises(Full) as caught:
        asyncio.run(ask())
    assert caught.value.refused == "queue"


def test_a_file_that_tells_its_size_only_when_decoded_is_priced_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda *facts: decoded.append(1) or decode(*facts))

    async def ask() -> None:
        servicer.request_log.set(servicer.RequestLog("1"))
        request = maximize_pb2.MaximizeRequest(image=file("TIFF"), goals=GOALS)
        await service(100.0).Maximize(request, SimpleNamespace(time_remaining=lambda: None))

    with pytest.raises(Full):
        asyncio.run(ask())
    assert decoded == [1]


FILES = {
    "JPEG": file(),
    "JPEG on its side": sideways(),
    "JPEG with a profile": file(icc_profile=bytes(60_000)),
    "PNG": file("PNG"),
    "GIF": file("GIF"),
    "BMP": file("BMP"),
    "WebP": file("WEBP"),
    "lossless WebP": file("WEBP", lossless=True),
    "WebP with a profile": file("WEBP", icc_profile=bytes(100)),
    "array": common_pb2.Image(
        tensor=common_pb2.Tensor(shape=(64, 96, 3), dtype=common_pb2.DTYPE_UINT8, data=bytes(64 * 96 * 3))
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_the_price_without_decoding_is_the_price(name: str) -> None:
    """Where a picture's sides decide it: with a width asked for, the height follows from them."""
    decoding = CallContext("id", time.monotonic(), None, ServedModels([card()]), LIMITS)
    for bind, request in (
        (maximize.bind, maximize_pb2.MaximizeRequest(image=FILES[name], goals=GOALS, size={"width": 80})),
        (stylize.bind, stylize_pb2.StylizeRequest(content=FILES[name], size={"width": 80})),
    ):
        priced = bind(request, replace(decoding, decode=False)).task  # type: ignore[operator]
        full = bind(request, decoding).task  # type: ignore[operator]
        assert priced.cost == full.cost
        assert priced.image.shape == full.image.shape
        assert priced.image.strides == (0, 0, 0), "it takes no memory"


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8\xff\xe0", b"RIFF0000WEBPVP8 ", b"RIFF0000WEBP" + bytes(40), b"GIF89a", b"BM"],
    ids=["empty", "JPEG", "WebP", "WebP of no kind", "GIF", "BMP"],
)
def test_the_beginning_of_a_damaged_file_has_no_size(data: bytes) -> None:
    assert images.header_size(common_pb2.Image(encoded=data)) is None
