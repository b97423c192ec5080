"""Attack through a real server: the answer, its certificate, and what is refused."""

import io

import grpc
import numpy as np
import pytest
from PIL import Image
from serving import Stubs, picture, refused

from gradserve.v1 import attack_pb2, explain_pb2, predict_pb2
from gradserve.v1 import common_pb2 as pb


def asked(**fields: object) -> attack_pb2.AttackRequest:
    """An attack on the small network."""
    facts = {"model": "small", "image": picture(3, 64, 64), "method": {"pgd": {}}, "preprocess": pb.PREPROCESS_AS_IS}
    return attack_pb2.AttackRequest(**{**facts, **fields})


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as opened:
        return np.asarray(opened).astype(np.int64)


def test_the_returned_picture_is_what_the_certificate_says(stubs: Stubs) -> None:
    request = asked(trajectory=True, perturbation=True, maps=explain_pb2.ExplainMethod(gradient={}), eps=8 / 255)
    reply = stubs.gradients.Attack(request)
    certificate, change = reply.certificate, pixels(reply.adversarial) - pixels_of(request.image)
    assert np.abs(change).max() == round(certificate.linf * 255) <= 8
    assert certificate.l2 == pytest.approx(np.sqrt(np.square(change / 255).sum()))
    assert certificate.l0 == change.any(2).sum()
    assert certificate.within_budget
    assert (certificate.queries, certificate.gradients) == (11, 10)
    assert [step.step for step in reply.trajectory] == list(range(11))
    assert np.array_equal(pixels(reply.perturbation), (128 + reply.magnification * change).clip(0, 255))
    again = pb.Image(encoded=reply.adversarial)
    seen = stubs.gradients.Predict(predict_request(again)).top
    assert seen[0].class_index == certificate.after.predicted.class_index
    assert reply.map_after.target.class_index == certificate.after.predicted.class_index
    assert reply.map_before.target.class_index == certificate.label


def predict_request(image: pb.Image) -> predict_pb2.PredictRequest:
    return predict_pb2.PredictRequest(model="small", image=image, preprocess=pb.PREPROCESS_AS_IS)


def pixels_of(image: pb.Image) -> np.ndarray:
    return np.frombuffer(image.tensor.data, np.uint8).reshape(tuple(image.tensor.shape)).astype(np.int64)


BAD = [
    ({"eps": -0.1}, "eps"),
    ({"eps": 1.1}, "eps"),
    ({"eps": float("nan")}, "eps"),
    ({"eps": 200.0, "norm": attack_pb2.NORM_L2}, "eps"),
    ({"eps": 0.1, "method": {"gradient_ascent": {}}}, "eps"),
    ({"method": {"pgd": {"steps": 0}}}, "method.pgd.steps"),
    ({"method": {"pgd": {"steps": 1_000_000}}}, "method.pgd.steps"),
    ({"method": {}}, "method"),
    ({"target": {"class_name": "no such thing"}}, "target.class_name"),
    ({"target": {"class_index": 1000}}, "target.class_index"),
    ({"target": {"class_index": 3}, "label": {"class_index": 3}}, "target"),
    ({"label": {"rank": 1}}, "label"),
    ({"loss": 17}, "loss"),
    ({"norm": 17}, "norm"),
]


@pytest.mark.parametrize(("fields", "field"), BAD, ids=lambda v: str(v))
def test_bad_input_is_named(stubs: Stubs, fields: dict[str, object], field: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        stubs.gradients.Attack(asked(**fields))
    found = refused(error.value)
    assert found.code == "INVALID_ARGUMENT"
    assert field in found.violations


def test_a_target_that_is_the_prediction_is_refused(stubs: Stubs) -> None:
    label = stubs.gradients.Attack(asked(eps=0.0)).certificate.label
    with pytest.raises(grpc.RpcError) as error:
        stubs.gradients.Attack(asked(target={"class_index": label}))
    assert refused(error.value).code == "FAILED_PRECONDITION"


def test_a_wrong_prediction_is_not_attacked(stubs: Stubs) -> None:
    label = stubs.gradients.Attack(asked(eps=0.0)).certificate.label
    request = asked(label={"class_index": (label + 1) % 1000})
    reply = stubs.gradients.Attack(request)
    assert reply.certificate.verdict == attack_pb2.VERDICT_ALREADY_MISCLASSIFIED
    assert np.array_equal(pixels(reply.adversarial), pixels_of(request.image))
