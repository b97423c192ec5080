"""Certify through a server: what it answers, bad input, what it does not apply to, and time."""

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from scipy.stats import beta, norm
from serving import PATIENCE, Refused, Server, Stubs, picture, refused

from gradserve.v1 import certify_pb2, models_pb2, predict_pb2
from gradserve.v1 import common_pb2 as pb

USUAL: dict[str, Any] = {"model": "digits", "image": picture(3, 8, 8), "preprocess": pb.PREPROCESS_AS_IS}
OTHERS = """
[models.labels]
builder = "networks:linear"
weights = "random"
precisions = ["exact"]
height = 8
width = 12
head = "multilabel"

[models.places]
builder = "position_networks:fine"
precisions = ["exact"]
labels = ["sky", "cat", "dog", "car"]
height = 32
width = 48
"""


def ask(stubs: Stubs, **fields: Any) -> certify_pb2.CertifyResponse:
    return stubs.gradients.Certify(certify_pb2.CertifyRequest(**{**USUAL, **fields}), timeout=PATIENCE)


def fails(stubs: Stubs, **fields: Any) -> Refused:
    with pytest.raises(grpc.RpcError) as caught:
        ask(stubs, **fields)
    return refused(caught.value)


def test_an_answer_has_all_that_follows_from_its_counts(stubs: Stubs) -> None:
    found = ask(stubs, sigma=0.1, options={"seed": 5})
    assert (found.sigma, found.selection_samples, found.samples, found.alpha) == (0.1, 100, 1000, 0.001)
    assert sum(each.selection_count for each in found.counts) == 100
    assert sum(each.count for each in found.counts) == 1000
    counts = [each.count for each in found.counts]
    assert counts == sorted(counts, reverse=True)
    assert found.candidate in found.counts
    assert found.candidate.selection_count == max(each.selection_count for each in found.counts)
    bound = beta.ppf(0.001, found.candidate.count, 1001 - found.candidate.count)
    assert found.lower_bound == pytest.approx(bound, rel=1e-9)
    assert found.abstains == (bound <= 0.5)
    assert found.radius == pytest.approx(max(0.0, 0.1 * norm.ppf(bound)), rel=1e-9)
    assert (found.provenance.rows, found.provenance.seed) == (1101, 5)
    assert found.provenance.precision == pb.PRECISION_EXACT
    assert found.region.width == 8
    plain = stubs.gradients.Predict(predict_pb2.PredictRequest(**USUAL)).top[0]
    assert found.plain.class_index == plain.class_index
    assert found.plain.logit == pytest.approx(plain.logit, rel=1e-4)


def test_seeds_give_the_noise(stubs: Stubs) -> None:
    first, same, other = (ask(stubs, samples=300, sigma=0.3, options={"seed": seed}) for seed in (1, 1, 2))
    assert first.counts == same.counts
    assert first.counts != other.counts
    alone = ask(stubs, samples=300, sigma=0.3, options={"seed": 1, "alone": True})
    assert alone.counts == first.counts
    assert alone.provenance.alone


def test_what_a_careful_reader_should_know(stubs: Stubs) -> None:
    few = ask(stubs, samples=9, sigma=0.01)
    assert few.abstains
    assert [text.split(":")[0] for text in few.warnings] == ["TOO_FEW_SAMPLES"]
    assert "0.4642" in few.warnings[0]
    assert not ask(stubs, samples=10, sigma=1e-3).abstains
    other = ask(stubs, image=picture(4, 8, 8), sigma=0.3, samples=60, selection_samples=20)
    assert not other.abstains
    assert other.candidate.class_index != other.plain.class_index
    assert [text.split(":")[0] for text in other.warnings] == ["OTHER_CLASS"]


def test_another_precision_is_told(stubs: Stubs) -> None:
    precisions = stubs.models.GetModel(models_pb2.GetModelRequest(name="small")).precisions
    if pb.PRECISION_FAST not in precisions:
        pytest.skip("this processor loads no half precision by itself")
    small = {"model": "small", "image": picture(0, 64, 64), "samples": 20, "sigma": 1e-3}
    found = ask(stubs, **small, options={"precision": pb.PRECISION_FAST})
    assert found.provenance.precision == pb.PRECISION_FAST
    assert "PRECISION: the radius is of the network as it computes in FAST, in which" in found.warnings[-1]
    assert ask(stubs, **small).provenance.precision == pb.PRECISION_EXACT


BAD: list[tuple[str, Any, str]] = [
    ("sigma", 0.0, "must be a number above 0 and up to 2, was 0.0"),
    ("sigma", -0.25, "must be a number above 0 and up to 2, was -0.25"),
    ("sigma", 2.01, "must be a number above 0 and up to 2, was 2.01"),
    ("sigma", float("nan"), "must be a number above 0 and up to 2, was nan"),
    ("sigma", float("inf"), "must be a number above 0 and up to 2, was inf"),
    ("selection_samples", 0, "must be an integer from 1 to 100000, was 0"),
    ("samples", 0, "must be an integer from 1 to 100000, was 0"),
    ("samples", 100_001, "must be an integer from 1 to 100000, was 100001"),
    ("alpha", 0.0, "must be a number above 0 and up to below 0.5, was 0.0"),
    ("alpha", 0.5, "must be a number above 0 and up to below 0.5, was 0.5"),
    ("alpha", 1.0, "must be a number above 0 and up to below 0.5, was 1.0"),
    ("alpha", float("nan"), "must be a number above 0 and up to below 0.5, was nan"),
]


@pytest.mark.parametrize(("field", "value", "text"), BAD)
def test_what_is_wrong_is_named(stubs: Stubs, field: str, value: Any, text: str) -> None:
    found = fails(stubs, **{field: value})
    assert (found.code, dict(found.violations)) == ("INVALID_ARGUMENT", {field: text})


def test_all_that_is_wrong_is_told_at_once(stubs: Stubs) -> None:
    found = fails(stubs, sigma=float("nan"), samples=0, selection_samples=0, alpha=1, preprocess=9)
    assert found.violations.keys() == {"sigma", "samples", "selection_samples", "alpha", "preprocess"}


def test_networks_without_one_class_are_refused() -> None:
    with Server(OTHERS, "--workers", "1") as server, server.channel() as channel:
        stubs = Stubs.of(channel)
        found = fails(stubs, model="labels", image=picture(0, 8, 12))
        assert (found.code, found.reason) == ("FAILED_PRECONDITION", "NOT_APPLICABLE")
        assert "Certify does not apply to labels: it counts the most probable class" in found.text
        assert "multilabel" in found.text
        found = fails(stubs, model="places", image=picture(0, 32, 48))
        assert found.code == "FAILED_PRECONDITION"
        assert "gives a score for each position" in found.text
        found = fails(stubs, model="labels", image=picture(0, 8, 12), sigma=-1)
        assert (found.code, set(found.violations)) == ("INVALID_ARGUMENT", {"sigma"})


def test_time_that_runs_out_gives_no_partial_answer(stubs: Stubs) -> None:
    for partial in (False, True):
        options = pb.RequestOptions(time_budget=Duration(nanos=300_000_000), allow_partial=partial)
        began = time.monotonic()
        found = fails(stubs, model="small", image=picture(0, 64, 64), samples=100_000, options=options)
        assert found.code in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"), found.text
        assert "allow_partial" not in found.text
        assert time.monotonic() - began < 30


def test_a_caller_that_goes_away_ends_the_work(server: Server, stubs: Stubs) -> None:
    request = certify_pb2.CertifyRequest(
        model="small", image=picture(0, 64, 64), preprocess=pb.PREPROCESS_AS_IS, samples=100_000
    )
    call = stubs.gradients.Certify.future(request)
    outstanding = wait_for(server, lambda cost: cost > 0)
    call.cancel()
    assert outstanding > 0
    assert wait_for(server, lambda cost: cost == 0) == 0
    assert ask(stubs, samples=10, options=pb.RequestOptions(time_budget=Duration(seconds=60))).samples == 10


def wait_for(server: Server, holds: Callable[[float], bool]) -> float:
    """The cost of all requests that are under way, as soon as that holds of it, or after a minute."""
    until = time.monotonic() + 60
    while not holds(cost := server.metric("gradserve_cost_outstanding")) and time.monotonic() < until:
        time.sleep(0.05)
    return cost
