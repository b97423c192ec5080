"""RISE, LIME, KernelSHAP and expected gradients through a server: bad input, prices, early and partial answers."""

from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from serving import PATIENCE, Server, Stubs, methods, picture, refused, values

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2

SMALL: dict[str, Any] = {"model": "small", "image": picture(1, 64, 64), "preprocess": pb.PREPROCESS_AS_IS}
TINY: dict[str, Any] = {
    "model": "linear",
    "image": pb.Image(tensor=pb.Tensor(shape=[8, 12, 3], dtype=pb.DTYPE_UINT8, data=bytes(range(96)) * 3)),
}


def ask(stubs: Stubs, asked: dict[str, Any], **fields: Any) -> Any:
    request = explain_pb2.ExplainRequest(**{**SMALL, **fields}, methods=methods(**asked))
    return stubs.gradients.Explain(request, timeout=PATIENCE)


def violations(stubs: Stubs, asked: dict[str, Any], **fields: Any) -> dict[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        ask(stubs, asked, **fields)
    failure = refused(caught.value)
    assert failure.code == "INVALID_ARGUMENT", failure.text
    return dict(failure.violations)


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("rise", {"keep": 0}, "keep", "must be a number from 0.01 to 0.99, was 0.0"),
    ("rise", {"keep": 1}, "keep", "must be a number from 0.01 to 0.99, was 1.0"),
    ("rise", {"samples": 1}, "samples", "must be an integer from 2 to 4000, was 1"),
    ("rise", {"grid": 0}, "grid", "must be an integer from 1 to 64, was 0"),
    ("lime", {"segments": 0}, "segments", "must be an integer from 2 to 300, was 0"),
    ("kernel_shap", {"segments": 1}, "segments", "must be an integer from 2 to 300, was 1"),
    ("lime", {"segments": 20, "samples": 21}, "samples", "must be at least 22 for 20 segments, was 21"),
    ("kernel_shap", {"segments": 20, "samples": 39}, "samples", "must be at least 40 for 20 segments, was 39"),
    ("lime", {"kernel_width": 0}, "kernel_width", "must be a number from 0.01 to 100, was 0.0"),
    ("lime", {"ridge": -1}, "ridge", "must be a number from 0 to 1e+06, was -1.0"),
    ("gradient_shap", {"noise": 1.5}, "noise", "must be a number from 0 to 1, was 1.5"),
    ("gradient_shap", {"baselines": 9}, "baselines", "must be one of mixed, black, mean, blur, noise, was '9'"),
]


@pytest.mark.parametrize(("method", "parameters", "field", "text"), BAD)
def test_what_is_wrong_is_named(stubs: Stubs, method: str, parameters: dict[str, Any], field: str, text: str) -> None:
    assert violations(stubs, {method: parameters}) == {f"methods[0].{method}.{field}": text}


@pytest.mark.parametrize(
    ("asked", "field", "text"),
    [
        ({"rise": {"grid": 9}}, "rise.grid", "must be at most 8, the shorter side of the input in pixels, was 9"),
        (
            {"lime": {"segments": 97, "samples": 200}},
            "lime.segments",
            "must be at most 96, the pixels of the input, was 97",
        ),
    ],
)
def test_what_is_too_much_for_the_input_is_named(stubs: Stubs, asked: dict[str, Any], field: str, text: str) -> None:
    assert violations(stubs, asked, **TINY) == {f"methods[0].{field}": text}


@pytest.mark.parametrize("bound", [0.0, -1.0, 1.5, float("nan")])
def test_a_bound_out_of_its_range_is_refused(stubs: Stubs, bound: float) -> None:
    found = violations(stubs, {"rise": {"samples": 4}}, until_stable=bound)
    assert found == {"until_stable": f"must be a number above 0 to 1, was {bound:g}"}


def test_a_bound_without_samples_is_refused(stubs: Stubs) -> None:
    text = "needs a method that draws samples: smooth_grad, rise, lime, kernel_shap, gradient_shap"
    assert violations(stubs, {"gradient": {}}, until_stable=0.1) == {"until_stable": text}


def test_replies_have_all_parameters_and_an_error(stubs: Stubs) -> None:
    asked = {
        "rise": {"samples": 60},
        "lime": {"samples": 60, "segments": 12},
        "kernel_shap": {"samples": 120, "segments": 12},
        "gradient_shap": {"samples": 4},
        "gradient": {},
    }
    *sampled, gradient = ask(stubs, asked).explanations
    assert sampled[0].method.rise == explain_pb2.Rise(samples=60, grid=7, keep=0.5, baseline=1)
    assert sampled[1].method.lime == explain_pb2.Lime(
        samples=60, segments=12, compactness=10, baseline=2, kernel_width=0.25, ridge=1
    )
    assert sampled[2].method.kernel_shap == explain_pb2.KernelShap(samples=120, segments=12, compactness=10, baseline=2)
    assert sampled[3].method.gradient_shap == explain_pb2.GradientShap(samples=4, baselines=1, noise=0, reduce=3)
    assert all(0 < each.standard_error < 10 for each in sampled)
    assert not gradient.HasField("standard_error")
    assert all(np.ptp(values(each.raw)) > 0 for each in sampled)


def test_a_stable_map_takes_fewer_samples_and_is_not_partial(server: Server, stubs: Stubs) -> None:
    partial = server.metric("gradserve_partial_total")
    reply = ask(stubs, {"smooth_grad": {"samples": 2000, "noise": 0.01}, "gradient": {}}, until_stable=0.5)
    smooth, gradient = reply.explanations
    assert smooth.asked == 2000
    assert smooth.done < 2000
    assert smooth.done % 16 == 0
    assert smooth.standard_error <= 0.5
    assert smooth.completed_fraction == smooth.done / 2000
    assert not smooth.warnings
    assert (gradient.asked, gradient.done) == (1, 1)
    assert server.metric("gradserve_partial_total") == partial
    same = ask(stubs, {"smooth_grad": {"samples": smooth.done, "noise": 0.01}}).explanations[0]
    assert values(same.raw) == pytest.approx(values(smooth.raw), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("method", ["rise", "lime", "kernel_shap"])
def test_a_partial_map(stubs: Stubs, method: str) -> None:
    options = pb.RequestOptions(time_budget=Duration(seconds=1), allow_partial=True)
    (found,) = ask(stubs, {method: {"samples": 4000}}, options=options).explanations
    assert 0 < found.done < found.asked == 4000
    assert any(
        text.startswith(f"TIME_UP: a partial answer, since time ran out after {found.done} of 4000 samples")
        for text in found.warnings
    )
    assert np.ptp(values(found.raw)) > 0
