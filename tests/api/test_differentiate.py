"""Differentiate through a real server: every format, batches, and what is wrong with a request."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import grpc
import numpy as np
import pytest
from serving import PATIENCE, Server, Stubs, picture, refused, tensor
from zoo import off, prepared

from gradserve import Client, Goal, images
from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import differentiate_pb2 as dx
from gradserve.v1 import explain_pb2
from gradserve_server.api.request import CallContext
from gradserve_server.api.rpcs import differentiate as rpc
from gradserve_server.config import LimitSettings
from gradserve_server.models.card import ModelCard
from gradserve_server.models.served import ServedModels
from gradserve_server.pool.wire import Task

SIDE, CLASSES, LINEAR = 64, 1000, (8, 12)
SATURATED = 1e-12
TICKS = 1.2  # Seconds after which both workers have sent their statistics.
ROUNDING = {"FLOAT32": 0.0, "BFLOAT16": 2**-8, "FLOAT16": 2**-11}  # The relative tolerance of each number.


def goal(*summands: Any) -> Any:
    return {"summands": list(summands)}


def of_class(index: int, weight: float = 1.0) -> Any:
    return goal({"target": {"class_index": index}, "weight": weight})


def logits(vector: np.ndarray) -> Any:
    return goal({"logits": pb.Tensor(shape=vector.shape, dtype=2, data=vector.astype("<f4").tobytes())})


def ask(stubs: Stubs, **fields: Any) -> dx.DifferentiateResponse:
    request = dx.DifferentiateRequest(**{"model": "small", "images": [picture(0, SIDE, SIDE)], **fields})
    return stubs.gradients.Differentiate(request, timeout=PATIENCE)  # type: ignore[no-any-return]


def gradient_of(reply: dx.DifferentiateResponse) -> np.ndarray:
    """In float64, written out from the contract."""
    values = images.numbers(reply.gradient).astype(np.float64)
    if reply.scales:
        values *= np.array(reply.scales).reshape(-1, *[1] * (values.ndim - 1))
    return values


# Formats


@pytest.mark.parametrize("form", ROUNDING)
def test_saturated_gradients_survive_in_every_format(stubs: Stubs, form: str) -> None:
    """As those of a network that is sure: the vector over the logits is 1e-12. Beside them are usual ones."""
    slope = np.random.default_rng(0).normal(size=CLASSES)
    sizes = np.array([SATURATED, 1.0, 1e-20])
    fields: dict[str, Any] = {"images": [picture(i, SIDE, SIDE) for i in range(3)], "options": {"alone": True}}
    fields["goals"] = [logits(size * slope) for size in sizes]
    exact = gradient_of(ask(stubs, **fields))
    usual = gradient_of(ask(stubs, **{**fields, "goals": [logits(slope)] * 3}))
    assert off(exact, usual * sizes.reshape(-1, 1, 1, 1)) < 1e-5
    assert 1e-14 < np.abs(exact[0]).max() < 6e-8, "plain float16 would be all zero"
    reply = ask(stubs, **fields, format=f"GRADIENT_FORMAT_{form}")
    found = gradient_of(reply)
    large = np.abs(exact) > 1e-7 * np.abs(exact).max((1, 2, 3), keepdims=True)
    assert large.mean() > 0.9
    assert (np.abs(found - exact)[large] <= ROUNDING[form] * np.abs(exact)[large]).all()
    assert len(reply.scales) == (3 if form == "FLOAT16" else 0)


# What is answered


def test_the_map_of_explain_is_made_of_the_same_gradient(stubs: Stubs) -> None:
    image = picture(0, SIDE, SIDE)
    reply = ask(stubs, goals=[of_class(7)])
    request = explain_pb2.ExplainRequest(
        model="small", image=image, preprocess=3, methods=[{"gradient": {"reduce": 3}}], targets=[{"class_index": 7}]
    )
    explained = stubs.gradients.Explain(request, timeout=PATIENCE).explanations[0]
    assert off(gradient_of(reply)[0].sum(2), images.numbers(explained.raw)) < 1e-4
    assert reply.values[0] == pytest.approx(explained.target_value, rel=1e-5)
    assert images.numbers(reply.logits)[0, 7] == pytest.approx(explained.target_value, rel=1e-5)
    assert (reply.regions[0].width, reply.regions[0].image_width) == (SIDE, SIDE)
    assert reply.provenance.preprocess == pb.PREPROCESS_AS_IS, "the default of this RPC"


def test_a_vector_jacobian_product_is_the_sum_of_its_classes(stubs: Stubs) -> None:
    vector = np.zeros(CLASSES)
    vector[[3, 7]] = 2.0, -0.5
    product = ask(stubs, goals=[logits(vector)])
    added = ask(stubs, goals=[goal(*of_class(3, 2.0)["summands"], *of_class(7, -0.5)["summands"])])
    assert off(gradient_of(product), gradient_of(added)) < 1e-5
    assert product.values[0] == pytest.approx(added.values[0], rel=1e-5)


def test_every_picture_has_its_own_goal_and_gets_what_it_gets_alone(stubs: Stubs) -> None:
    pictures = [picture(i, SIDE, SIDE) for i in range(5)]
    direction = {"layer": "features.14", "vector": np.random.default_rng(1).normal(size=160)}
    goals = [of_class(3), goal({"target": {"rank": 2}}), goal({"direction": direction}), of_class(3, -1.0)]
    goals.append(goal({"target": {"contrast": {"terms": [{"target": {"rank": 1}}], "others_of_top": 4}}}))
    together = ask(stubs, images=pictures, goals=goals)
    assert together.provenance.rows == 10, "five rows, and five forward passes that rank the classes"
    for i, (image, each) in enumerate(zip(pictures, goals, strict=True)):
        lone = ask(stubs, images=[image], goals=[each])
        assert off(gradient_of(together)[i], gradient_of(lone)[0]) < 1e-4
        assert together.values[i] == pytest.approx(lone.values[0], rel=1e-4)


def test_eight_bits_and_floats_have_one_gradient_by_pixels_from_0_to_1(stubs: Stubs) -> None:
    bits = picture(0, SIDE, SIDE)
    floats = tensor((images.array(bits.tensor) / 255).astype(np.float32))
    mixed = gradient_of(ask(stubs, images=[bits, floats], goals=[of_class(3)]))
    assert off(mixed[0], mixed[1]) < 1e-4
    assert off(mixed[0], gradient_of(ask(stubs, goals=[of_class(3)]))[0]) < 1e-4


def test_by_a_layer(stubs: Stubs) -> None:
    reply = ask(stubs, images=[picture(i, SIDE, SIDE) for i in range(2)], layer="features.14", goals=[of_class(3)])
    assert list(reply.gradient.shape) == [2, 160, 2, 2]
    assert images.numbers(reply.gradient).any()
    half = ask(stubs, images=[picture(i, SIDE, SIDE) for i in range(2)], layer="features.14", goals=[of_class(3, 0.5)])
    assert off(gradient_of(half), 0.5 * gradient_of(reply)) < 1e-5


def test_by_the_last_vector(stubs: Stubs) -> None:
    """The gradient of a class by its own logits is a row of the identity."""
    reply = ask(stubs, model="linear", images=[picture(0, *LINEAR)], layer="1", goals=[of_class(2)])
    assert images.numbers(reply.gradient).tolist() == [[0.0, 0.0, 1.0, 0.0, 0.0]]


def test_forward_only(stubs: Stubs) -> None:
    reply, whole = ask(stubs, forward_only=True), ask(stubs)
    assert not reply.HasField("gradient")
    assert reply.values[0] == pytest.approx(whole.values[0], rel=1e-5)
    assert off(images.numbers(reply.logits), images.numbers(whole.logits)) < 1e-5


def test_preprocessing_is_told_by_the_regions(stubs: Stubs) -> None:
    reply = ask(stubs, images=[picture(0, 80, 100)], preprocess=pb.PREPROCESS_MODEL_DEFAULT)
    assert list(reply.gradient.shape) == [1, SIDE, SIDE, 3]
    assert (reply.regions[0].x, reply.regions[0].image_width) == (10, 100)


def test_alone_is_the_same_to_the_byte(stubs: Stubs) -> None:
    pictures = [picture(i, SIDE, SIDE) for i in range(3)]
    first, second = (ask(stubs, images=pictures, options={"alone": True}) for _ in range(2))
    third = ask(stubs, images=pictures[1:2], options={"alone": True})
    assert first.gradient.data == second.gradient.data
    assert gradient_of(first)[1].tobytes() == gradient_of(third)[0].tobytes()


def test_batches_of_several_callers_share_passes_and_get_what_they_get_alone(server: Server, stubs: Stubs) -> None:
    """Rules, formats, goals and targets of many kinds at once, on a model whose passes take 15 rows."""

    def batch(i: int) -> dx.DifferentiateRequest:
        pictures = [picture(10 * i + k, 8, 8) for k in range(2 + i % 5)]
        goals: list[Any] = [of_class(k % 10, 0.5) for k in range(len(pictures))] if i % 2 else [of_class(i % 10)]
        fields: Any = {"rule": 1 + i % 3, "format": 1, "model": "digits"}
        return dx.DifferentiateRequest(images=pictures, goals=goals, **fields)

    def told(i: int) -> np.ndarray:
        return gradient_of(stubs.gradients.Differentiate(batch(i), timeout=PATIENCE))

    def passes() -> np.ndarray:
        """Rows and passes of both workers, once they have told of all: until nothing comes any more."""
        found = [-1.0]
        while found != (found := [server.metric(f"gradserve_step_rows_{what}") for what in ("sum", "count")]):
            time.sleep(TICKS)
        return np.array(found)

    before = passes()
    alone = [told(i) for i in range(24)]
    between = passes()
    with ThreadPoolExecutor(12) as pool:
        company = list(pool.map(told, range(24)))
    (own, own_passes), (rows, shared) = between - before, passes() - between
    assert rows == own, "nobody else asked"
    assert shared < own_passes, "they share passes"
    for ours, lone in zip(company, alone, strict=True):
        assert max(off(a, b) for a, b in zip(ours, lone, strict=True)) < 1e-4


def test_a_client_gets_what_the_contract_says(stubs: Stubs, server: Any) -> None:
    pixels = np.stack([images.array(picture(i, SIDE, SIDE).tensor) for i in range(3)])
    with Client(server.address) as client:
        ours = client.differentiate(pixels, Goal(3) - 0.5 * Goal(7), model="small", format="float16")
        exact = client.differentiate(list(pixels), Goal(3) - 0.5 * Goal(7), model="small")
    assert ours.gradient is not None
    assert exact.gradient is not None
    assert off(ours.gradient, exact.gradient) < 1e-3
    assert ours.values == pytest.approx(exact.values)
    assert len(ours) == 3


# What is wrong

LAYER_GOAL = goal({"target": {"unit": {"layer": "features.4", "channel": 1}}})
NAN = np.full(CLASSES, np.nan)
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no pictures": ({"images": []}, "images", "must be 1 to 256, were 0"),
    "too many pictures": ({"images": [picture(0, 8, 8)] * 257}, "images", "must be 1 to 256, were 257"),
    "sizes that differ": (
        {"images": [picture(0, SIDE, SIDE), picture(0, SIDE, SIDE + 8)]},
        "images[1]",
        f"is {SIDE + 8}x{SIDE} where images[0] is {SIDE}x{SIDE}",
    ),
    "a size that the model does not take": (
        {"model": "linear", "images": [picture(0, *LINEAR), picture(0, 9, 9)]},
        "images[1]",
        "AS_IS needs a 12x8 picture",
    ),
    "too many goals": ({"goals": [of_class(1)] * 2}, "goals", "one, or one for each of the 1 images, were 2"),
    "an unknown rule": ({"rule": 9}, "rule", "BACKWARD_RULE_GUIDED"),
    "an unknown format": ({"format": 9}, "format", "GRADIENT_FORMAT_BFLOAT16"),
    "a vector of another length": (
        {"goals": [logits(np.ones(CLASSES - 1))]},
        "goals[0].summands[0].logits.shape",
        "must be [1000], a factor for each class, was [999]",
    ),
    "a vector with NaN": ({"goals": [logits(NAN)]}, "goals[0].summands[0].logits.data", "must be finite numbers"),
    "a vector of zeros": ({"goals": [logits(0 * NAN)]}, "goals[0].summands[0].logits.data", "not all of them 0"),
    "a vector of 8 bits": (
        {"goals": [goal({"logits": pb.Tensor(shape=[CLASSES], dtype=1, data=bytes(CLASSES))})]},
        "goals[0].summands[0].logits.dtype",
        "must be FLOAT32, was UINT8",
    ),
    "a vector that is cut off": (
        {"goals": [goal({"logits": pb.Tensor(shape=[CLASSES], dtype=2, data=bytes(CLASSES))})]},
        "goals[0].summands[0].logits.data",
        "must have 4000 bytes, had 1000",
    ),
    "a direction of another length": (
        {"goals": [goal({"direction": {"layer": "features.4", "vector": [1.0]}})]},
        "goals[0].summands[0].direction.vector",
        "must have 32 numbers",
    ),
    "an infinite weight": ({"goals": [of_class(1, float("inf"))]}, "goals[0].summands[0].weight", "was inf"),
    "a class less itself": (
        {"goals": [goal(*of_class(1)["summands"], *of_class(1, -1.0)["summands"])]},
        "goals[0].summands",
        "contrast a target with itself",
    ),
    "an unknown layer": ({"layer": "features.99"}, "layer", "has no layer 'features.99'"),
    "a layer behind the goal": (
        {"layer": "features.10", "goals": [LAYER_GOAL]},
        "layer",
        "goals[0] reads features.4, which features.10 does not reach",
    ),
    "a rule without a gradient": ({"forward_only": True, "rule": 2}, "rule", "forward_only leaves it out"),
    "more than a reply carries": (
        {"images": [picture(0, 512, 512)] * 21, "format": 1},
        "images",
        "21 gradients take 63.0 MiB as FLOAT32; a reply carries 60 MiB",
    ),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong(stubs: Stubs, case: tuple[dict[str, Any], str, str]) -> None:
    fields, path, text = case
    with pytest.raises(grpc.RpcError) as caught:
        ask(stubs, **fields)
    found = refused(caught.value)
    assert (found.code, list(found.violations)) == ("INVALID_ARGUMENT", [path])
    assert text in found.violations[path]


def test_a_rule_where_the_model_has_no_relu(stubs: Stubs) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(stubs, model="linear", images=[picture(0, *LINEAR)], rule=2)
    found = refused(caught.value)
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "NOT_APPLICABLE")
    assert "the rule GUIDED does not apply to linear" in found.text


# What admission counts


@cache
def card() -> ModelCard:
    return prepared("squeezenet1_1").card


def task_of(limits: LimitSettings | None = None, **fields: Any) -> Task:
    pixels = np.zeros((card().height, card().width, 3), np.uint8)
    request = dx.DifferentiateRequest(**{"images": [tensor(pixels)] * 5, **fields})
    at = CallContext("id", time.monotonic(), None, ServedModels([card()]), limits or LimitSettings())
    return rpc.bind(request, at).task


def test_rows_cost_what_they_are_differentiated_by() -> None:
    by_pixels = 5 * 3 * card().gflop
    assert task_of().cost == pytest.approx(by_pixels)
    assert task_of(forward_only=True).cost == pytest.approx(5 * card().gflop)
    assert task_of(layer="features.5").cost == pytest.approx(5 * card().gflop)
    assert task_of(goals=[goal({"target": {"rank": 3}})]).cost == pytest.approx(by_pixels), "ranked in the same pass"
    top = goal({"target": {"contrast": {"terms": [{"target": {"rank": 1}}], "others_of_top": 4}}})
    assert task_of(goals=[top]).cost == pytest.approx(by_pixels + 5 * card().gflop)
    other = {"image": tensor(np.zeros((card().height, card().width, 3), np.uint8)), "layer": "features.10"}
    assert task_of(goals=[goal({"target": {"similarity": other}})]).cost == pytest.approx(by_pixels + card().gflop)


def test_the_price_is_known_without_the_pictures() -> None:
    request = dx.DifferentiateRequest(images=[{"encoded": b"never read"}] * 5, preprocess=1)
    at = CallContext("id", time.monotonic(), None, ServedModels([card()]), LimitSettings(), decode=False)
    assert rpc.bind(request, at).task.cost == pytest.approx(task_of().cost)


def test_a_batch_crosses_to_the_worker_as_eight_bits() -> None:
    task = task_of()
    assert (task.image.dtype, task.image.shape) == (np.uint8, (5, card().height, card().width, 3))
