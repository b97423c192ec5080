"""What is checked of regions before a request becomes a task."""

import io
import time
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import methods, picture
from zoo import CPU

from gradserve.v1 import attack_pb2, explain_pb2
from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.errors import RequestError
from gradserve_server.api.request import CallContext
from gradserve_server.api.rpcs import attack, explain
from gradserve_server.config import LimitSettings
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.served import ServedModels

IMAGE = picture(4, 32, 48)
SPEC = ModelSpec(name="fine", builder="position_networks:fine", height=32, width=48, precisions=("exact",))
BOX = pb.ScoreRegion(box=pb.Box(x0=60, y0=60, x1=90, y1=90))  # Of a larger picture than the model's input.


@cache
def served() -> ServedModels:
    return ServedModels([prepare(SPEC, CPU).card])


def context() -> CallContext:
    return CallContext("id", time.monotonic(), None, served(), LimitSettings())


def mask(width: int, height: int) -> pb.ScoreRegion:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width), 255, np.uint8)).save(file, "PNG")
    return pb.ScoreRegion(mask=pb.Image(encoded=file.getvalue()))


def explain_request(*targets: pb.Target, image: pb.Image = IMAGE) -> explain_pb2.ExplainRequest:
    return explain_pb2.ExplainRequest(image=image, methods=methods(gradient={}), targets=targets)


@pytest.mark.parametrize("region", [BOX, mask(100, 90)], ids=["box", "mask"])
def test_a_region_of_a_bad_picture_is_not_blamed(region: pb.ScoreRegion) -> None:
    request = explain_request(pb.Target(class_index=1, region=region), image=pb.Image(encoded=b"no picture"))
    with pytest.raises(RequestError) as caught:
        explain.bind(request, context())
    assert [field for field, _ in caught.value.violations] == ["image"]


def test_what_is_wrong_for_every_picture_is_told_beside_a_bad_one() -> None:
    region = pb.ScoreRegion(box=pb.Box(x0=9, y0=1, x1=2, y1=5))
    request = explain_request(pb.Target(class_index=1, region=region), image=pb.Image(encoded=b"no picture"))
    with pytest.raises(RequestError) as caught:
        explain.bind(request, context())
    assert [field for field, _ in caught.value.violations] == ["image", "targets[0].region.box"]


UNIT = pb.Target(unit=pb.Unit(layer="stem", channel=1))


def contrast(*targets: pb.Target, **facts: Any) -> pb.Target:
    terms = [pb.WeightedTarget(target=target, weight=i + 1) for i, target in enumerate(targets)]
    return pb.Target(contrast=pb.Contrast(terms=terms, **facts))


@pytest.mark.parametrize("target", [UNIT, contrast(UNIT, UNIT)], ids=["unit", "contrast"])
def test_what_reads_layers_alone_has_no_region(target: pb.Target) -> None:
    (call,) = explain.bind(explain_request(target), context()).task.arguments.calls
    assert call.region is None
    request = attack_pb2.AttackRequest(image=IMAGE, method={"fgsm": {}}, score_region=mask(48, 32), maps_target=target)
    request.maps.gradient.SetInParent()
    (call,) = attack.bind(request, context()).maps
    assert call.region is None
    with_region = pb.Target()
    with_region.CopyFrom(target)
    with_region.region.CopyFrom(mask(48, 32))
    with pytest.raises(RequestError, match="is for classes, ranks and contrasts of them; leave it out"):
        explain.bind(explain_request(with_region), context())


@pytest.mark.parametrize(
    "target", [contrast(UNIT, pb.Target(class_index=1)), contrast(UNIT, others_of_top=3)], ids=["class", "top"]
)
def test_a_contrast_that_reads_a_class_needs_a_region(target: pb.Target) -> None:
    with pytest.raises(RequestError, match=r"targets\[0\].region: must be set for fine"):
        explain.bind(explain_request(target), context())
