"""Attack through a real server: the answer, its certificate, and what is refused."""

import io

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from PIL import Image
from serving import Server, Stubs, picture, refused, tensor

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
    ({"eot": {}, "method": {"square": {}}}, "eot"),
    ({"eot": {"samples": 65}}, "eot.samples"),
    ({"eot": {"scale": 1.0}}, "eot.scale"),
    ({"defence": {}}, "defence"),
    ({"defence": {"jpeg": {"quality": 0}}}, "defence.jpeg.quality"),
    ({"defence": {"blur": {"sigma": 0.0}}}, "defence.blur.sigma"),
    ({"adaptive": True}, "adaptive"),
    ({"method": {"fooling": {}}}, "target"),
    ({"method": {"corruption": {}}}, "method.corruption.kind"),
    ({"method": {"corruption": {"kind": 99}}}, "method.corruption.kind"),
    ({"method": {"transfer": {}}}, "method.transfer.surrogate"),
    ({"method": {"transfer": {"surrogate": "smal"}}}, "method.transfer.surrogate"),
    ({"method": {"transfer": {"surrogate": "digits"}}}, "method.transfer.surrogate"),
    ({"method": {"one_pixel": {"population": 1000, "generations": 1000}}}, "method.one_pixel"),
    ({"eot": {"samples": 64}, "method": {"pgd": {"restarts": 64}}}, "method.pgd"),
    ({"maps": {}}, "maps"),
    ({"maps_format": 9}, "maps_format"),
    ({"target": {"pick": 9}}, "target.pick"),
    ({"target": {"class_index": 3}, "method": {"apgd_targeted": {}}}, "target"),
    ({"target": {"pick": attack_pb2.PICK_RUNNER_UP}, "method": {"ensemble": {}}}, "target"),
    ({"loss": attack_pb2.LOSS_MARGIN, "method": {"ensemble": {}}}, "loss"),
    ({"loss": attack_pb2.LOSS_DLR, "method": {"fab_targeted": {}}}, "loss"),
    ({"eot": {}, "method": {"ensemble": {}}}, "eot"),
    ({"eot": {}, "method": {"fab_targeted": {}}}, "eot"),
    ({"method": {"apgd_targeted": {"classes": 0}}}, "method.apgd_targeted.classes"),
    ({"method": {"malt": {"candidates": 1001}}}, "method.malt.candidates"),
    ({"method": {"ensemble": {"queries": 1}}}, "method.ensemble.queries"),
    ({"method": {"ensemble": {"steps": 1000, "classes": 200}}}, "method.ensemble"),
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


def test_an_attack_that_runs_out_of_time_may_answer_with_what_it_has(stubs: Stubs) -> None:
    options = pb.RequestOptions(time_budget=Duration(seconds=2), allow_partial=True)
    reply = stubs.gradients.Attack(asked(method={"pgd": {"steps": 1000}}, options=options))
    assert 0 < reply.done < reply.asked == 1000
    told = f"TIME_UP: a partial answer, since time ran out after {reply.done} of 1000 steps"
    assert told in reply.certificate.warnings
    assert reply.certificate.within_budget
    options.allow_partial = False
    with pytest.raises(grpc.RpcError) as error:
        stubs.gradients.Attack(asked(method={"pgd": {"steps": 1000}}, options=options))
    assert refused(error.value).code == "DEADLINE_EXCEEDED"


def test_a_defence_is_judged_with_and_without(stubs: Stubs) -> None:
    reply = stubs.gradients.Attack(asked(defence={"blur": {"sigma": 1.5}}, adaptive=True, eps=8 / 255))
    certificate = reply.certificate
    seen = stubs.gradients.Predict(predict_request(pb.Image(encoded=reply.adversarial))).top
    assert certificate.undefended.predicted.class_index == seen[0].class_index
    assert certificate.undefended.margin != certificate.after.margin
    bare = stubs.gradients.Attack(asked(defence={"blur": {"sigma": 1.5}}, eps=8 / 255)).certificate
    assert any(text.startswith("NOT_ADAPTIVE") for text in bare.warnings)


def test_fooling_needs_no_picture(stubs: Stubs) -> None:
    method = {"fooling": {"population": 4, "generations": 1}}
    reply = stubs.gradients.Attack(attack_pb2.AttackRequest(model="small", method=method, target={"class_index": 7}))
    assert reply.certificate.target == 7
    assert pixels(reply.adversarial).shape == (64, 64, 3)


def test_verdicts_are_counted(server: Server, stubs: Stubs) -> None:
    before = server.metric("gradserve_attack_verdict_total")
    stubs.gradients.Attack(asked(method={"fgsm": {}}))
    assert server.metric("gradserve_attack_verdict_total") == before + 1


def test_float_pixels_are_rounded_first(stubs: Stubs) -> None:
    values = pixels_of(picture(3, 64, 64)).astype(np.float32) / 255 + 0.001
    reply = stubs.gradients.Attack(asked(image=tensor(values.clip(0, 1)), method={"fgsm": {}}, eps=2 / 255))
    assert reply.certificate.linf == pytest.approx(2 / 255)
    assert reply.certificate.within_budget
