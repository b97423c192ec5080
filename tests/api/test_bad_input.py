"""Whatever is wrong with a request is told at once, clearly, and harms nobody."""

import io
from typing import Any

import grpc
import pytest
from PIL import Image
from serving import PATIENCE, Refused, Server, Stubs, methods, picture, refused

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2, models_pb2, predict_pb2
from gradserve_server.api.transport.interceptor import _request_id

IMAGE = picture(0, 64, 64)
DIGIT = picture(0, 8, 8)


def explain(stubs: Stubs, **fields: Any) -> explain_pb2.ExplainResponse:
    fields = {"model": "digits", "image": IMAGE, "methods": methods(gradient={}), **fields}
    return stubs.gradients.Explain(explain_pb2.ExplainRequest(**fields), timeout=PATIENCE)


def predict(stubs: Stubs, **fields: Any) -> predict_pb2.PredictResponse:
    return stubs.gradients.Predict(
        predict_pb2.PredictRequest(**{"model": "digits", "image": IMAGE, **fields}), timeout=PATIENCE
    )


def failing(ask: Any, *args: Any, **fields: Any) -> Refused:
    with pytest.raises(grpc.RpcError) as caught:
        ask(*args, **fields)
    return refused(caught.value)


def violations(ask: Any, *args: Any, **fields: Any) -> dict[str, str]:
    failure = failing(ask, *args, **fields)
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    return dict(failure.violations)


TENSORS = {
    "nothing at all": pb.Image(),
    "an empty tensor": pb.Image(tensor=pb.Tensor()),
    "no type": pb.Image(tensor=pb.Tensor(shape=[8, 8, 3], data=bytes(192))),
    "a type of replies": pb.Image(tensor=pb.Tensor(shape=[8, 8, 3], dtype=pb.DTYPE_FLOAT16, data=bytes(384))),
    "an unknown type": pb.Image(tensor=pb.Tensor(shape=[8, 8, 3], dtype=77, data=bytes(192))),  # type: ignore[arg-type]
    "two dimensions": pb.Image(tensor=pb.Tensor(shape=[8, 8], dtype=pb.DTYPE_UINT8, data=bytes(64))),
    "four dimensions": pb.Image(tensor=pb.Tensor(shape=[1, 8, 8, 3], dtype=pb.DTYPE_UINT8, data=bytes(192))),
    "channels first": pb.Image(tensor=pb.Tensor(shape=[3, 8, 8], dtype=pb.DTYPE_UINT8, data=bytes(192))),
    "four channels": pb.Image(tensor=pb.Tensor(shape=[8, 8, 4], dtype=pb.DTYPE_UINT8, data=bytes(256))),
    "no pixels": pb.Image(tensor=pb.Tensor(shape=[0, 8, 3], dtype=pb.DTYPE_UINT8)),
    "too few bytes": pb.Image(tensor=pb.Tensor(shape=[8, 8, 3], dtype=pb.DTYPE_UINT8, data=bytes(191))),
    "too many bytes": pb.Image(tensor=pb.Tensor(shape=[8, 8, 3], dtype=pb.DTYPE_UINT8, data=bytes(193))),
    "bytes of another type": pb.Image(tensor=pb.Tensor(shape=[8, 8, 3], dtype=pb.DTYPE_FLOAT32, data=bytes(192))),
    "a huge shape": pb.Image(tensor=pb.Tensor(shape=[2**32 - 1, 2**32 - 1, 3], dtype=pb.DTYPE_UINT8, data=b"x")),
    "a million dimensions": pb.Image(tensor=pb.Tensor(shape=[1] * 1_000_000, dtype=pb.DTYPE_UINT8, data=b"x")),
}


@pytest.mark.parametrize("image", TENSORS.values(), ids=TENSORS.keys())
def test_tensors_that_are_no_pictures(stubs: Stubs, image: pb.Image) -> None:
    assert set(violations(explain, stubs, image=image)) == {"image"}
    assert set(violations(predict, stubs, image=image)) == {"image"}


@pytest.mark.parametrize(
    ("name", "was"), [("no type", "UNSPECIFIED"), ("a type of replies", "FLOAT16"), ("an unknown type", "77")]
)
def test_a_type_that_no_picture_has_is_told(stubs: Stubs, name: str, was: str) -> None:
    said = violations(predict, stubs, image=TENSORS[name])["image"]
    assert said == f"tensor.dtype must be UINT8 or FLOAT32, was {was}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.01, 1.01, 255.0])
def test_floats_outside_of_0_to_1(stubs: Stubs, value: float) -> None:
    import numpy as np

    pixels = np.full((8, 8, 3), 0.5, np.float32)
    pixels[3, 4, 1] = value
    image = pb.Image(tensor=pb.Tensor(shape=[8, 8, 3], dtype=pb.DTYPE_FLOAT32, data=pixels.tobytes()))
    assert "[0, 1]" in violations(explain, stubs, image=image)["image"]


def everything_wrong(stubs: Stubs) -> dict[str, str]:
    """The violations of a request that has one in every field."""
    return violations(
        explain,
        stubs,
        image=pb.Image(encoded=b"GIF89a"),
        preprocess=9,
        format=9,
        methods=[
            *methods(smooth_grad={"samples": 0, "noise": 1.5, "statistic": 9, "reduce": 9}),
            explain_pb2.ExplainMethod(),
            *methods(integrated_gradients={"steps": 1, "baseline": 9}),
            *methods(grad_cam={"layer": "fetures"}),
            *methods(occlusion={"patch": float("nan"), "stride": -1, "value": 2}),
        ],
        targets=[
            pb.Target(class_index=10),
            pb.Target(class_name="sevn"),
            pb.Target(rank=0),
            pb.Target(rank=11),
            pb.Target(unit=pb.Unit(layer="0.8", channel=999, y=99, x=0)),
            pb.Target(unit=pb.Unit(layer="0.8", channel=0, y=1)),
            pb.Target(unit=pb.Unit(layer="nowhere")),
            pb.Target(class_index=1),
        ],
        options=pb.RequestOptions(priority=9, precision=9, time_budget={"seconds": -3}),  # type: ignore[arg-type]
    )


def test_all_violations_are_told_at_once(stubs: Stubs) -> None:
    assert set(everything_wrong(stubs)) == {
        "image",
        "preprocess",
        "format",
        "methods[0].smooth_grad.samples",
        "methods[0].smooth_grad.noise",
        "methods[0].smooth_grad.statistic",
        "methods[0].smooth_grad.reduce",
        "methods[1]",
        "methods[2].integrated_gradients.steps",
        "methods[2].integrated_gradients.baseline",
        "methods[3].grad_cam.layer",
        "methods[4].occlusion.patch",
        "methods[4].occlusion.stride",
        "methods[4].occlusion.value",
        "targets[0].class_index",
        "targets[1].class_name",
        "targets[2].rank",
        "targets[3].rank",
        "targets[4].unit.channel",
        "targets[4].unit.y",
        "targets[5].unit",
        "targets[6].unit.layer",
        "options.priority",
        "options.precision",
        "options.time_budget",
    }


def test_a_violation_says_what_was_wrong_and_what_is_allowed(stubs: Stubs) -> None:
    found = everything_wrong(stubs)
    assert found["methods[0].smooth_grad.samples"] == "must be an integer from 1 to 2000, was 0"
    assert found["methods[0].smooth_grad.statistic"].startswith("must be one of mean, variance, square")
    assert found["targets[0].class_index"] == "must be from 0 to 9, was 10"
    names = "PREPROCESS_MODEL_DEFAULT, PREPROCESS_WHOLE_IMAGE, PREPROCESS_AS_IS"
    assert found["preprocess"] == f"must be one of {names}, was 9"
    names = "PRECISION_AUTO, PRECISION_EXACT, PRECISION_BALANCED, PRECISION_FAST"
    assert found["options.precision"] == f"must be one of {names}, was 9"
    assert found["options.priority"] == "must be one of PRIORITY_INTERACTIVE, PRIORITY_BATCH, was 9"


@pytest.mark.parametrize(
    ("ask", "name", "nearest"),
    [
        (lambda stubs: predict(stubs, model="didgits"), "NOT_FOUND", "digits"),
        (lambda stubs: stubs.models.GetModel(models_pb2.GetModelRequest(name="smal")), "NOT_FOUND", "small"),
        (
            lambda stubs: explain(stubs, model="small", targets=[pb.Target(class_name="gold fish")]),
            "targets",
            "goldfish",
        ),
        (
            lambda stubs: explain(stubs, model="small", methods=methods(grad_cam={"layer": "feature.14"})),
            "methods[0].grad_cam.layer",
            "features.14",
        ),
        (
            lambda stubs: explain(stubs, model="small", targets=[pb.Target(unit=pb.Unit(layer="features.14.conf"))]),
            "targets[0].unit.layer",
            "features.14.conv",
        ),
    ],
)
def test_unknown_names_get_the_nearest(stubs: Stubs, ask: Any, name: str, nearest: str) -> None:
    failure = failing(ask, stubs)
    assert nearest in failure.text
    if name == "NOT_FOUND":
        assert (failure.code, failure.reason) == ("NOT_FOUND", "UNKNOWN_MODEL")
    else:
        assert failure.code == "INVALID_ARGUMENT"
        assert next(iter(failure.violations)).startswith(name)


def test_a_folded_layer_is_told_its_new_name(stubs: Stubs) -> None:
    for fields in (
        {"methods": methods(grad_cam={"layer": "0.7"})},
        {"targets": [pb.Target(unit=pb.Unit(layer="0.7"))]},
    ):
        assert "0.8" in next(iter(violations(explain, stubs, **fields).values()))


def test_a_class_name_that_several_classes_have(stubs: Stubs) -> None:
    found = violations(explain, stubs, model="small", targets=[pb.Target(class_name="CARDIGAN")])
    assert "264, 474" in found["targets[0].class_name"]
    targets = [pb.Target(class_name=name) for name in ("Cardigan", "cardigan", "GOLDFISH")]
    answers = explain(stubs, model="small", targets=targets).explanations
    assert [answer.target.class_index for answer in answers] == [264, 474, 1]


def test_too_many_and_too_few(stubs: Stubs) -> None:
    gradient = methods(gradient={})
    assert "methods" in violations(explain, stubs, methods=[])
    assert "methods" in violations(explain, stubs, methods=gradient * 17)
    assert "targets" in violations(explain, stubs, targets=[pb.Target(class_index=1)] * 17)
    assert len(explain(stubs, methods=gradient * 16, targets=[pb.Target(class_index=1)] * 16).explanations) == 256
    assert "top_k" in violations(predict, stubs, top_k=0)
    assert "top_k" in violations(predict, stubs, top_k=1001)
    assert len(predict(stubs, top_k=1000).top) == 10


def test_units_that_are_not_there(stubs: Stubs) -> None:
    def unit(**fields: Any) -> set[str]:
        return set(violations(explain, stubs, targets=[pb.Target(unit=pb.Unit(**fields))]))

    assert unit(layer="0.8", x=1) == {"targets[0].unit"}
    assert unit(layer="0.8", y=4, x=4) == {"targets[0].unit.y", "targets[0].unit.x"}
    assert unit(layer="2", channel=10) == {"targets[0].unit.channel"}
    assert unit(layer="2", y=0, x=0) == {"targets[0].unit"}
    assert unit(layer="") == {"targets[0].unit.layer"}


def test_a_unit_outside_of_a_smaller_map(stubs: Stubs) -> None:
    """The card's size says nothing about another one; then the pass itself finds out, and only this caller is told."""
    unit = pb.Target(unit=pb.Unit(layer="0.8", channel=1, y=9, x=9))
    as_is = {"preprocess": pb.PREPROCESS_AS_IS, "targets": [unit]}
    assert explain(stubs, image=picture(0, 32, 32), **as_is).explanations
    failure = failing(explain, stubs, image=picture(0, 12, 12), **as_is)
    assert failure.code == "FAILED_PRECONDITION"
    assert "outside" in failure.text


def test_grad_cam_must_look_before_the_target(stubs: Stubs) -> None:
    unit = [pb.Target(unit=pb.Unit(layer="0.8"))]
    assert "methods[0].grad_cam.layer" in violations(
        explain, stubs, methods=methods(grad_cam={"layer": "0.11"}), targets=unit
    )
    assert explain(stubs, methods=methods(grad_cam={"layer": "0.4"}), targets=unit).explanations


def test_log_prob_of_a_unit(stubs: Stubs) -> None:
    unit = [pb.Target(unit=pb.Unit(layer="0.8"))]
    found = violations(explain, stubs, methods=methods(gradient={"log_prob": True}), targets=unit)
    assert set(found) == {"methods[0].gradient.log_prob"}


def test_an_occlusion_of_too_many_positions(stubs: Stubs) -> None:
    found = violations(
        explain, stubs, model="small", methods=methods(gradient={}, occlusion={"patch": 0.01, "stride": 0.01})
    )
    assert set(found) == {"methods[1].occlusion"}
    assert "4097 passes" in found["methods[1].occlusion"]
    found = violations(
        explain,
        stubs,
        image=picture(0, 1000, 1000),
        preprocess=pb.PREPROCESS_AS_IS,
        methods=methods(occlusion={"patch": 1e-300}),
    )
    assert set(found) == {"methods[0].occlusion"}


def test_more_maps_than_a_reply_carries(stubs: Stubs) -> None:
    many = {
        "image": picture(0, 1000, 1000),
        "preprocess": pb.PREPROCESS_AS_IS,
        "methods": methods(gradient={}) * 16,
        "targets": [pb.Target(class_index=1)] * 16,
    }
    assert set(violations(explain, stubs, **many)) == {"methods"}


def test_as_is_needs_a_size_that_suits(stubs: Stubs) -> None:
    as_is = {"preprocess": pb.PREPROCESS_AS_IS}
    assert "12x8" in violations(explain, stubs, model="linear", image=picture(0, 8, 8), **as_is)["image"]
    assert explain(stubs, model="linear", image=picture(0, 8, 12), **as_is).explanations
    assert "at least 8 pixels" in violations(explain, stubs, image=picture(0, 7, 8), **as_is)["image"]
    assert "at most 1048576 pixels in all" in violations(explain, stubs, image=picture(0, 1025, 1024), **as_is)["image"]
    assert explain(stubs, image=picture(0, 13, 29), **as_is).explanations[0].raw.shape == [13, 29]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"guided_backprop": {}}, "ReLU"),
        ({"deconvnet": {}}, "ReLU"),
        ({"grad_cam": {}}, "spatial"),
        ({"guided_grad_cam": {}}, "guided_grad_cam"),
    ],
)
def test_methods_that_do_not_apply(stubs: Stubs, asked: dict[str, Any], why: str) -> None:
    failure = failing(explain, stubs, model="linear", methods=methods(gradient={}, **asked))
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "NOT_APPLICABLE")
    assert next(iter(asked)) in failure.text
    assert why in failure.text
    card = stubs.models.GetModel(models_pb2.GetModelRequest(name="linear"))
    assert not next(m for m in card.methods if m.method in asked).applies


def test_a_precision_that_is_not_loaded(stubs: Stubs) -> None:
    asked = {"model": "linear", "options": pb.RequestOptions(precision=pb.PRECISION_FAST)}
    failure = failing(explain, stubs, **asked)
    assert failure.code == "FAILED_PRECONDITION"
    assert "EXACT" in failure.text
    assert set(violations(explain, stubs, methods=[], **asked)) == {"methods"}, "what is invalid is told first"


def test_grad_cam_on_a_layer_without_extent(stubs: Stubs) -> None:
    failure = failing(explain, stubs, methods=methods(grad_cam={"layer": "2"}))
    assert failure.code == "FAILED_PRECONDITION"


@pytest.mark.parametrize("letter", ["x", "\u4e2d", "\n", '"'])
def test_what_a_caller_sends_does_not_blow_up_the_error(stubs: Stubs, letter: str) -> None:
    """gRPC drops errors of more than 8 KiB, so names are told again only in part."""
    long = letter * 300_000
    failure = failing(predict, stubs, model=long)
    assert failure.code == "NOT_FOUND"
    assert failure.reason == "UNKNOWN_MODEL"
    targets = [pb.Target(class_name=long), pb.Target(unit=pb.Unit(layer=long))] * 8
    layers = methods(grad_cam={"layer": long}) * 16
    failure = failing(explain, stubs, methods=layers, targets=targets)
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert any(field.startswith("methods[0].grad_cam") for field in failure.violations) or "more" in str(failure)


@pytest.mark.parametrize("nanos", [-1, 0, 1])
def test_no_time_at_all(stubs: Stubs, nanos: int) -> None:
    failure = failing(explain, stubs, options=pb.RequestOptions(time_budget={"nanos": nanos}))  # type: ignore[arg-type]
    assert failure.code == ("DEADLINE_EXCEEDED" if nanos == 1 else "INVALID_ARGUMENT")


def test_more_time_than_there_is(stubs: Stubs) -> None:
    budget: Any = {"seconds": 2**62}
    assert explain(stubs, options=pb.RequestOptions(time_budget=budget)).explanations


def test_the_largest_seed(stubs: Stubs) -> None:
    options = pb.RequestOptions(seed=2**64 - 1)
    reply = explain(stubs, methods=methods(smooth_grad={"samples": 2}), options=options)
    assert reply.provenance.seed == 2**64 - 1


def test_33_mib_are_too_much(server: Server, stubs: Stubs) -> None:
    failure = failing(predict, stubs, image=pb.Image(encoded=bytes(33 << 20)))
    assert failure.code == "RESOURCE_EXHAUSTED"
    assert predict(stubs).top


@pytest.mark.parametrize("garbage", [b"\xff", b"\x12\xff\xff\xff\xff\x0f", b"\x0a\x02\xc3\x28", b"garbage" * 99])
def test_bytes_that_are_no_message(server: Server, garbage: bytes) -> None:
    with server.channel() as channel:
        for method in ("GradientService/Predict", "GradientService/Explain", "ModelService/GetModel"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/gradserve.v1.{method}")(garbage, timeout=PATIENCE)
            failure = refused(caught.value)
            assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/gradserve.v1.GradientService/Nothing")(b"", timeout=PATIENCE)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_request_of_too_many_passes_in_all(stubs: Stubs) -> None:
    targets = [pb.Target(class_index=i) for i in range(10)]
    found = violations(explain, stubs, methods=methods(smooth_grad={"samples": 2000}), targets=targets)
    assert "20010 passes" in found["methods"]


def test_an_elongated_picture_as_is(stubs: Stubs) -> None:
    found = violations(explain, stubs, image=picture(0, 8, 1024), preprocess=pb.PREPROCESS_AS_IS, overlay=True)
    assert "1024x8" in found["image"]


def test_overlays_are_of_bounded_size(stubs: Stubs) -> None:
    asked = explain_pb2.ExplainRequest(
        model="digits",
        image=picture(0, 8, 160),
        preprocess=pb.PREPROCESS_AS_IS,
        methods=methods(gradient={}),
        overlay=True,
    )
    overlay = Image.open(io.BytesIO(stubs.gradients.Explain(asked, timeout=PATIENCE).explanations[0].overlay))
    assert overlay.size == (160, 8)


def test_a_request_id_that_cannot_be_a_header() -> None:
    """gRPC's own clients refuse such bytes before they send them; a proxy may not."""
    assert _request_id({"x-request-id": "é"}).isascii()
    assert _request_id({"x-request-id": "mine"}).startswith("mine-")


@pytest.mark.parametrize("field", [b"\x22\x00", b"\x0a\x00", b"\xfa\x7f\x00"])
def test_a_message_of_nothing_but_fields_is_not_parsed(server: Server, field: bytes) -> None:
    """8 MB of empty methods, empty names, or fields that no message has. Parsing the first took 170 MB."""
    data = field * (8_000_000 // len(field))
    with server.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/gradserve.v1.GradientService/Explain")(data, timeout=60)
    failure = refused(caught.value)
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    assert "more than 150000 fields" in failure.text
