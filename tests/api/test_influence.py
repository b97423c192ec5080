"""Influence, Suspects and Embed through a real server."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from serving import PATIENCE, Refused, Server, Stubs, refused, tensor

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import influence_pb2 as inf
from gradserve_server.api.errors import Violations
from gradserve_server.api.rpcs import influence
from gradserve_server.models.embedded.digits.data import parts, pixels
from gradserve_server.models.served import ServedModels


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Held-out digits as the service takes them, and their labels."""
    _, x, _, y = parts()
    return pixels(x), y


def ask(stubs: Stubs, image: np.ndarray, **facts: object) -> inf.InfluenceResponse:
    return stubs.gradients.Influence(inf.InfluenceRequest(model="digits", image=tensor(image), **facts))


def fails(stubs: Stubs, image: np.ndarray, **facts: object) -> Refused:
    with pytest.raises(grpc.RpcError) as error:
        stubs.gradients.Influence(inf.InfluenceRequest(**{"model": "digits", "image": tensor(image), **facts}))
    return refused(error.value)


def test_digits_comes_ready_to_be_asked(stubs: Stubs, digits: tuple[np.ndarray, np.ndarray]) -> None:
    reply = ask(stubs, digits[0][5])
    assert (reply.method_name, reply.examples, len(reply.helpful), len(reply.harmful)) == ("projected", 1437, 8, 8)
    assert reply.label == digits[1][5]
    assert reply.value == pytest.approx(-np.log(reply.probability), rel=1e-4)
    assert reply.coverage > 0.95
    changes = [each.change for each in reply.helpful]
    assert changes == sorted(changes, reverse=True)
    assert min(changes) > reply.noise_floor > 0
    assert max(each.change for each in reply.harmful) < -reply.noise_floor
    assert sum(each.label == reply.label for each in reply.helpful) >= 6
    best = reply.helpful[0]
    x, _, y, _ = parts()
    assert best.label == y[best.row]
    shown = np.asarray(Image.open(io.BytesIO(best.thumbnail)).convert("RGB"))
    assert np.array_equal(shown, pixels(x)[best.row])


def test_the_goal_gives_the_sign(stubs: Stubs, digits: tuple[np.ndarray, np.ndarray]) -> None:
    loss, margin = (
        ask(stubs, digits[0][7], goal=goal) for goal in (inf.INFLUENCE_GOAL_LOSS, inf.INFLUENCE_GOAL_MARGIN)
    )
    assert [each.row for each in loss.helpful] == [each.row for each in margin.helpful]
    assert margin.helpful[0].change < 0 < loss.helpful[0].change
    slope = -(1 - loss.probability)
    assert loss.helpful[0].change == pytest.approx(slope * margin.helpful[0].change, rel=1e-4)


@pytest.mark.parametrize("method", ["projected", "last_layer"])
def test_what_ifs_are_sums_and_steps(stubs: Stubs, digits: tuple[np.ndarray, np.ndarray], method: str) -> None:
    own = inf.InfluenceMethod(**{method: {"newton": False} if method == "last_layer" else {}})
    first = ask(stubs, digits[0][3], method=own)
    rows = [each.row for each in first.helpful]
    questions = [inf.Reweighting(rows=rows[:1]), inf.Reweighting(rows=rows), inf.Reweighting(rows=rows, weight=2)]
    alone, group, doubled = ask(stubs, digits[0][3], method=own, what_if=questions).what_if
    assert alone == pytest.approx(first.helpful[0].change, rel=1e-5)
    assert group == pytest.approx(sum(each.change for each in first.helpful), rel=1e-5)
    assert doubled == pytest.approx(-2 * group, rel=1e-5)


def test_a_newton_step_sees_more_than_the_first_order(stubs: Stubs, digits: tuple[np.ndarray, np.ndarray]) -> None:
    reply = ask(stubs, digits[0][3], method=inf.InfluenceMethod(last_layer={}))
    assert all(each.newton_change > each.change for each in reply.helpful)
    assert reply.method.last_layer.newton


def test_neighbours_are_alike(stubs: Stubs, digits: tuple[np.ndarray, np.ndarray]) -> None:
    reply = ask(stubs, digits[0][3], method=inf.InfluenceMethod(neighbours={}))
    assert not reply.harmful
    assert 1 >= reply.helpful[0].similarity >= reply.helpful[-1].similarity > 0.5
    assert not reply.helpful[0].HasField("newton_change")


def test_suspects(stubs: Stubs) -> None:
    reply = stubs.gradients.Suspects(inf.SuspectsRequest(model="digits", top=5, thumbnails=False))
    assert (len(reply.examples), reply.total) == (5, 1437)
    suspicions = [each.suspicion for each in reply.examples]
    assert suspicions == sorted(suspicions, reverse=True)
    assert not any(each.thumbnail for each in reply.examples)
    by_loss = stubs.gradients.Suspects(inf.SuspectsRequest(model="digits", top=3, order=inf.SUSPECT_ORDER_LOSS))
    assert by_loss.examples[0].loss >= by_loss.examples[1].loss > 0.3


def test_features_are_what_the_head_reads(stubs: Stubs, digits: tuple[np.ndarray, np.ndarray]) -> None:
    image = tensor(digits[0][3])
    usual = stubs.gradients.Embed(inf.EmbedRequest(model="digits", image=image))
    assert (usual.layer, usual.is_input, tuple(usual.features.shape)) == ("2", True, (128,))
    asked = {
        pool: stubs.gradients.Embed(inf.EmbedRequest(model="digits", image=image, layer="0.4", pooling=pool))
        for pool in (1, 2, 3)
    }
    mean, most, whole = (
        np.frombuffer(asked[pool].features.data, "<f4").reshape(tuple(asked[pool].features.shape)) for pool in (1, 2, 3)
    )
    assert whole.shape == (32, 8, 8)
    assert np.allclose(mean, whole.mean((1, 2)), atol=1e-5)
    assert np.array_equal(most, whole.max((1, 2)))


BAD = [
    ({"label": pb.Target(class_index=10)}, {"label.class_index": "0 to 9"}),
    ({"label": pb.Target(class_name="eleven")}, {"label.class_name": "no class"}),
    ({"label": pb.Target(unit={"layer": "2"})}, {"label": "not a unit"}),
    ({"top": 0, "goal": 9}, {"top": "1 to 100", "goal": "INFLUENCE_GOAL_LOSS"}),
    ({"what_if": [{"rows": [1437]}, {"rows": []}]}, {"what_if[0].rows": "0 to 1436", "what_if[1].rows": "1 to 100000"}),
    ({"what_if": [{"rows": [3, 3]}, {"rows": [1], "weight": -2}]}, {"what_if[0].rows": "", "what_if[1].weight": ""}),
    ({"what_if": [{"rows": [1], "weight": float("nan")}]}, {"what_if[0].weight": "nan"}),
    ({"what_if": [{"rows": [1]}], "method": {"neighbours": {}}}, {"what_if": "no changes"}),
    ({"what_if": [{"rows": [1]}] * 17}, {"what_if": "at most 16"}),
    ({"ensemble": ["nobody", "digits"]}, {"ensemble[0]": "there is no model", "ensemble[1]": "already"}),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "said"), BAD)
def test_bad_requests_are_told_field_by_field(
    stubs: Stubs, digits: tuple[np.ndarray, np.ndarray], facts: dict[str, object], said: dict[str, str]
) -> None:
    found = fails(stubs, digits[0][0], **facts)
    assert found.code == "INVALID_ARGUMENT"
    assert found.violations.keys() == said.keys()
    assert all(text in found.violations[field] for field, text in said.items())


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"dataset": "of b"}, "of different examples; leave b out, or index it with the same --data"),
        ({"count": 9}, "of different examples; leave b out, or index it with the same --data"),
        ({"head": "binary"}, "a has the head softmax, and b has binary; name a model with the head softmax"),
        ({"classes": 4}, "a has 3 classes, and b has 4; name a model of the same classes"),
        ({"methods": ("last_layer", "neighbours")}, "leave b out, or ask by a method that both have: neighbours"),
    ],
)
def test_why_a_model_is_none_of_an_ensemble(monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], says: str) -> None:
    usual = {"dataset": "of a", "count": 8, "classes": 3, "head": "softmax", "methods": ("projected", "neighbours")}
    indexes = {"a": SimpleNamespace(**usual), "b": SimpleNamespace(**{**usual, **facts})}
    monkeypatch.setattr(influence, "opened", lambda name, digest: SimpleNamespace(manifest=indexes[name]))
    names = {name: {"name": name, "index": name, "index_digest": ""} for name in indexes}
    cards: Any = [SimpleNamespace(**names[name], head=each.head) for name, each in indexes.items()]
    violations = Violations()
    request = inf.InfluenceRequest(ensemble=["b"])
    influence._members(request, cards[0], "projected", ServedModels(cards), violations)
    (refusal,) = violations.refused
    assert refusal.startswith("ensemble[0]: ")
    assert says in refusal


def test_what_does_not_apply_is_refused(stubs: Stubs, digits: tuple[np.ndarray, np.ndarray]) -> None:
    missing = fails(stubs, digits[0][0], model="small")
    assert missing.code == "FAILED_PRECONDITION"
    assert "gradserve index --model small --data" in missing.text
    assert fails(stubs, digits[0][0], ensemble=["small"]).code == "FAILED_PRECONDITION"
    fast = fails(stubs, digits[0][0], options={"precision": pb.PRECISION_FAST})
    assert (fast.code, "leave options.precision at AUTO" in fast.text) == ("FAILED_PRECONDITION", True)
    with pytest.raises(grpc.RpcError) as error:
        stubs.gradients.Suspects(inf.SuspectsRequest(model="small"))
    assert refused(error.value).code == "FAILED_PRECONDITION"


def test_a_server_without_its_index_does_not_start(tmp_path: Path) -> None:
    with Server(f'[models.digits]\nindex = "{tmp_path}"\n', "--workers", "1") as server:
        assert server.process.wait(PATIENCE) == 1
        assert f"index {tmp_path}: there is no manifest.json; `gradserve index` builds one" in server.log()
