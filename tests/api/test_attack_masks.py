"""Attacks within a mask through a real server: what may change, and what is refused."""

import io
import time
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from serving import Stubs, picture, refused, tensor
from zoo import CPU

from gradserve.v1 import attack_pb2
from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.errors import RequestError
from gradserve_server.api.pictures.decode_limits import counted_pixels
from gradserve_server.api.request import CallContext
from gradserve_server.api.rpcs import attack
from gradserve_server.config import LimitSettings
from gradserve_server.methods.attack import METHODS
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.served import ServedModels

IMAGE = picture(3, 64, 64)
QUADRANT = np.zeros((64, 64), np.uint8)
QUADRANT[:32, 32:] = 255
SHORT: dict[str, dict[str, object]] = {
    "gradient_ascent": {"rate": 300.0, "steps": 3},
    "pgd": {"steps": 3, "restarts": 3},
    "apgd": {"steps": 5, "restarts": 2},
    "square": {"queries": 30},
    "transfer": {"surrogate": "small", "steps": 3},
    "apgd_targeted": {"steps": 3, "classes": 2},
    "fab_targeted": {"steps": 4, "classes": 2},
    "ensemble": {"steps": 3, "classes": 2, "queries": 10},
    "malt": {"steps": 3, "classes": 2, "candidates": 4},
}
NORMS = {"linf": attack_pb2.NORM_LINF, "l2": attack_pb2.NORM_L2}
TAKERS = [(name, norm) for name, method in METHODS.items() if method.mask for norm in ("linf", "l2")]


def mask_of(pixels: np.ndarray) -> attack_pb2.AttackMask:
    """A mask as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return attack_pb2.AttackMask(picture=pb.Image(encoded=file.getvalue()))


def box_of(*edges: float) -> attack_pb2.AttackMask:
    return attack_pb2.AttackMask(box=pb.Box(**dict(zip(("x0", "y0", "x1", "y1"), edges, strict=True))))


def asked(**fields: Any) -> attack_pb2.AttackRequest:
    """An attack on the small network within the quadrant."""
    facts = {"model": "small", "image": IMAGE, "method": {"pgd": {}}, "preprocess": pb.PREPROCESS_AS_IS}
    return attack_pb2.AttackRequest(**{**facts, "mask": mask_of(QUADRANT), **fields})


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as opened:
        return np.asarray(opened).astype(np.int64)


def pixels_of(image: pb.Image) -> np.ndarray:
    return np.frombuffer(image.tensor.data, np.uint8).reshape(tuple(image.tensor.shape)).astype(np.int64)


def changed(reply: attack_pb2.AttackResponse, before: np.ndarray) -> np.ndarray:
    """Where the returned picture differs, [H, W] of bool."""
    different: np.ndarray = (pixels(reply.adversarial) != before).any(2)
    return different


@pytest.mark.parametrize("way", ["plain", "jpeg", "eot"])
@pytest.mark.parametrize(("method", "norm"), TAKERS)
def test_the_rest_of_the_returned_bytes_is_unchanged(stubs: Stubs, method: str, norm: str, way: str) -> None:
    facts: dict[str, Any] = {"method": {method: SHORT.get(method, {})}, "norm": NORMS[norm], "trajectory": True}
    if METHODS[method].bounded:
        facts["eps"] = {"linf": 8 / 255, "l2": 3.0}[norm]
    if way == "eot" and METHODS[method].uses == "gradients" and METHODS[method].eot:
        facts["eot"] = {"samples": 2, "rotation": 2.0, "scale": 0.01, "brightness": 0.01, "noise": 0.001}
    elif way == "jpeg":
        facts |= {"defence": {"jpeg": {}}, "adaptive": True}
    reply = stubs.gradients.Attack(asked(**facts))
    change = changed(reply, pixels_of(IMAGE))
    assert not change[QUADRANT == 0].any()
    # FAB seeks the nearest picture, which may be the original to a level.
    # A random view of the original may reach the goal of an attack that stops then.
    assert change[QUADRANT == 255].any() or method == "fab_targeted" or reply.certificate.first_success == 0
    assert reply.certificate.mask_pixels == 1024
    assert reply.certificate.l0 == change.sum()
    assert reply.certificate.within_budget
    assert reply.trajectory or method == "fab_targeted"


def test_a_success_that_ends_the_attack_is_within_the_mask(stubs: Stubs) -> None:
    reply = stubs.gradients.Attack(
        asked(first_success=True, method={"pgd": {"steps": 100}}, eps=1.0, perturbation=True)
    )
    assert reply.certificate.verdict == attack_pb2.VERDICT_FOUND
    assert not changed(reply, pixels_of(IMAGE))[QUADRANT == 0].any()
    assert not (pixels(reply.perturbation) != 128).any(2)[QUADRANT == 0].any()


def test_a_box_and_a_mask_lie_in_the_picture_as_it_was_sent(stubs: Stubs) -> None:
    """The model's crop of a picture of 240 by 160 is its middle, 160 by 160, made 64 by 64."""
    sent = picture(5, 160, 240)
    white = np.zeros((160, 240), np.uint8)
    white[20:100, 90:180] = 255
    places = (np.arange(64) + 0.5) * 160 / 64
    inside = ((places >= 20) & (places < 100))[:, None] & ((places + 40 >= 90) & (places + 40 < 180))
    facts = {"image": sent, "preprocess": pb.PREPROCESS_MODEL_DEFAULT, "eps": 8 / 255}
    before = stubs.gradients.Attack(asked(**facts | {"eps": 0.0}))
    for mask in (box_of(90, 20, 180, 100), mask_of(white)):
        reply = stubs.gradients.Attack(asked(**facts, mask=mask))
        change = changed(reply, pixels(before.adversarial))
        assert reply.certificate.mask_pixels == inside.sum()
        assert not change[~inside].any()
        assert change[inside].mean() > 0.9
    own = stubs.gradients.Attack(asked(**facts))
    assert own.certificate.mask_pixels == 1024, "a mask of the size of the model's input"
    assert not changed(own, pixels(before.adversarial))[QUADRANT == 0].any()


def test_an_attack_without_a_mask_says_nothing_of_one(stubs: Stubs) -> None:
    request = asked(method={"fgsm": {}})
    request.ClearField("mask")
    assert not stubs.gradients.Attack(request).certificate.HasField("mask_pixels")


NAN = float("nan")
BAD = [
    ({"mask": mask_of(np.full((40, 30), 255, np.uint8))}, "mask.picture", "must have the size of the picture, 64x64"),
    ({"mask": mask_of(np.full((64, 64), 127, np.uint8))}, "mask.picture", "has nothing that is at least half white"),
    ({"mask": box_of(9, 5, 5, 9)}, "mask.box", "x0 must be less than x1"),
    ({"mask": box_of(5, 9, 9, 9)}, "mask.box", "x0 must be less than x1, and y0 less than y1"),
    ({"mask": box_of(NAN, 5, 9, 9)}, "mask.box", "x0 must be less than x1"),
    ({"mask": box_of(5, 5, 9, NAN)}, "mask.box", "y0 less than y1"),
    ({"mask": box_of(70, 5, 90, 9)}, "mask.box", "it sees x from 0 to 64 and y from 0 to 64 of this picture"),
    ({"mask": box_of(5.6, 5, 6.4, 9)}, "mask.box", "the middle of no position lies in it"),
    ({"mask": attack_pb2.AttackMask(picture=pb.Image(encoded=b"x"))}, "mask.picture", "not a picture"),
    ({"mask": attack_pb2.AttackMask(picture=pb.Image())}, "mask.picture", "no picture was sent"),
    ({"mask": attack_pb2.AttackMask()}, "mask", "sets neither box nor picture"),
    (
        {"mask": attack_pb2.AttackMask(picture=tensor(np.full((64, 64, 1), NAN, np.float32)))},
        "mask.picture",
        "this one has NaN",
    ),
    *(
        (
            {"method": method, **more},
            "mask",
            f"does not apply to {next(iter(method))}; it does to gradient_ascent, fgsm",
        )
        for method, more in (
            ({"one_pixel": {}}, {}),
            ({"patch": {}}, {}),
            ({"sphere": {}}, {}),
            ({"corruption": {"kind": 10}}, {}),
            ({"fooling": {}}, {"target": {"class_index": 1}}),
        )
    ),
]


@pytest.mark.parametrize(("fields", "field", "text"), BAD, ids=[f"{field}-{text[:40]}" for _, field, text in BAD])
def test_bad_masks_are_named(stubs: Stubs, fields: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        stubs.gradients.Attack(asked(**fields))
    found = refused(error.value)
    assert found.code == "INVALID_ARGUMENT"
    assert text in found.violations[field]


def test_the_part_that_the_model_does_not_see_is_told(stubs: Stubs) -> None:
    facts = {"image": picture(5, 160, 240), "preprocess": pb.PREPROCESS_MODEL_DEFAULT}
    with pytest.raises(grpc.RpcError) as error:
        stubs.gradients.Attack(asked(**facts, mask=box_of(0, 0, 30, 160)))
    assert "it sees x from 40 to 200 and y from 0 to 160" in refused(error.value).violations["mask.box"]


def test_the_pixels_of_a_mask_count_among_those_of_the_request() -> None:
    spec = ModelSpec(name="linear", builder="networks:linear", height=8, width=12, weights="random")
    served = ServedModels([prepare(spec, CPU).card])
    white = mask_of(np.full((200, 300), 255, np.uint8))
    request = attack_pb2.AttackRequest(image=picture(1, 200, 300), method={"fgsm": {}}, mask=white)
    for most, fits in ((120_000, True), (119_999, False)):
        at = CallContext("id", time.monotonic(), None, served, LimitSettings(max_request_pixels=most))
        with counted_pixels():
            if fits:
                assert attack.bind(request, at).task.arguments.ball.mask.all()
                continue
            with pytest.raises(RequestError, match="with this one the request's pictures have 120000 pixels") as caught:
                attack.bind(request, at)
            assert [field for field, _ in caught.value.violations] == ["mask.picture"]
