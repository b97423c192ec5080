"""Relevance through a real server: maps, warnings, what is refused; and what admission counts for it."""

import time
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from serving import Stubs, methods, picture, refused, tensor, values
from zoo import off, prepared

from gradserve.v1 import attack_pb2, explain_pb2, models_pb2
from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import differentiate_pb2 as dx
from gradserve_server.api.errors import RequestError
from gradserve_server.api.request import CallContext
from gradserve_server.api.rpcs import attack, differentiate, explain
from gradserve_server.api.rpcs.certificate import map_task
from gradserve_server.config import LimitSettings
from gradserve_server.models.card import ModelCard, Precision, Rpc
from gradserve_server.models.served import ServedModels

IMAGE = picture(0, 64, 64)
SMALL = {"model": "small", "image": IMAGE, "preprocess": pb.PREPROCESS_AS_IS}
EITHER = pb.Contrast(
    terms=[
        pb.WeightedTarget(target=pb.Target(class_index=3), weight=1),
        pb.WeightedTarget(target=pb.Target(class_index=7), weight=-1),
    ]
)


def ask(stubs: Stubs, *targets: Any, **fields: Any) -> Any:
    fields = {"methods": methods(lrp={}), **fields}
    request = explain_pb2.ExplainRequest(**{**SMALL, "targets": targets, **fields})
    return stubs.gradients.Explain(request, timeout=60)


def failing(stubs: Stubs, **fields: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        ask(stubs, **fields)
    return refused(caught.value)


def codes(explanation: Any) -> set[str]:
    return {warning.partition(":")[0] for warning in explanation.warnings}


def test_a_class_alone_is_warned_of_and_a_contrast_is_not(stubs: Stubs) -> None:
    alone, contrast = ask(stubs, pb.Target(class_index=3), pb.Target(contrast=EITHER)).explanations
    assert "NO_CONTRAST" in codes(alone)
    assert "NO_CONTRAST" not in codes(contrast)
    (epsilon,) = ask(stubs, pb.Target(class_index=3), methods=methods(lrp={"rule": 3})).explanations
    assert "NO_CONTRAST" not in codes(epsilon)
    assert alone.method.lrp == explain_pb2.Lrp(rule=1, gamma=0.25, input_rule=1), "the reply echoes all parameters"


def test_the_map_of_a_contrast_is_the_difference_of_the_maps(stubs: Stubs) -> None:
    targets = [pb.Target(class_index=3), pb.Target(class_index=7), pb.Target(contrast=EITHER)]
    a, b, contrast = (values(each.raw) for each in ask(stubs, *targets).explanations)
    assert off(contrast, a - b) < 1e-4


def test_relevance_in_float16_that_loses_its_digits_is_flagged(stubs: Stubs) -> None:
    (found,) = ask(stubs, pb.Target(class_index=3), format=explain_pb2.MAP_FORMAT_FLOAT16).explanations
    assert ("FLOAT16_UNDERFLOW" in codes(found)) == (max(abs(found.low), abs(found.high)) < 2.0**-14)


def test_differentiate_gives_relevance_over_the_pixels_less_the_mean(stubs: Stubs) -> None:
    (found,) = ask(stubs, pb.Target(class_index=3)).explanations
    request = dx.DifferentiateRequest(model="small", images=[IMAGE], rule=dx.BACKWARD_RULE_LRP_Z_PLUS)
    request.goals.add().summands.add(target=pb.Target(class_index=3))
    reply = stubs.gradients.Differentiate(request, timeout=60)
    mean = np.array(stubs.models.GetModel(models_pb2.GetModelRequest(name="small")).mean)
    pixels = np.frombuffer(IMAGE.tensor.data, np.uint8).reshape(64, 64, 3) / 255
    assert off((values(reply.gradient)[0] * (pixels - mean)).sum(2), values(found.raw)) < 1e-4
    assert reply.values[0] == pytest.approx(found.target_value, rel=1e-5)


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "an unknown rule": ({"rule": 9}, "methods[0].lrp.rule", "one of z_plus, gamma, epsilon"),
    "an unknown input rule": ({"input_rule": 9}, "methods[0].lrp.input_rule", "one of same, flat, box"),
    "a gamma that is not finite": ({"gamma": float("nan")}, "methods[0].lrp.gamma", "a number from 0 to 100"),
    "a gamma below 0": ({"gamma": -0.5}, "methods[0].lrp.gamma", "a number from 0 to 100"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong(stubs: Stubs, case: str) -> None:
    parameters, path, text = WRONG[case]
    found = failing(stubs, methods=methods(lrp=parameters))
    assert (found.code, list(found.violations)) == ("INVALID_ARGUMENT", [path])
    assert text in found.violations[path]


def test_a_model_that_rules_do_not_apply_to(stubs: Stubs) -> None:
    found = failing(stubs, model="linear", image=picture(0, 8, 12))
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "NOT_APPLICABLE")
    assert "lrp does not apply to linear: it has no layer that its rules change" in found.text


# What is bound, and what admission counts


def context(card: ModelCard) -> CallContext:
    return CallContext("id", time.monotonic(), None, ServedModels([card]), LimitSettings())


def explained(card: ModelCard, parameters: dict[str, Any], **fields: Any) -> Any:
    image = tensor(np.zeros((card.height, card.width, 3), np.uint8))
    request = explain_pb2.ExplainRequest(preprocess=pb.PREPROCESS_AS_IS, image=image, **fields)
    request.methods.add().lrp.CopyFrom(explain_pb2.Lrp(**parameters))
    return explain.bind(request, context(card)).task


@pytest.mark.parametrize(("rule", "factor"), [(0, 4), (1, 4), (2, 7), (3, 2)])
def test_a_map_costs_as_much_as_its_rule(rule: int, factor: int) -> None:
    card = prepared("resnet18").card
    assert explained(card, {"rule": rule}).cost == pytest.approx(card.gflop * 3 * factor)


@pytest.mark.parametrize(("rule", "factor"), [("PLAIN", 1), ("LRP_Z_PLUS", 4), ("LRP_GAMMA", 7), ("LRP_EPSILON", 2)])
def test_a_gradient_costs_as_much_as_its_rule(rule: str, factor: int) -> None:
    card = prepared("resnet18").card
    image = tensor(np.zeros((card.height, card.width, 3), np.uint8))
    request = dx.DifferentiateRequest(images=[image] * 3, rule=dx.BackwardRule.Value(f"BACKWARD_RULE_{rule}"))
    task = differentiate.bind(request, context(card)).task
    assert task.cost == pytest.approx(card.gflop * 3 * 3 * factor)


@pytest.mark.parametrize("precision", ["BALANCED", "FAST"])
def test_other_precisions_are_refused_and_auto_is_exact(precision: str) -> None:
    auto: dict[Rpc, Precision] = {"explain": "fast", "differentiate": "fast"}
    card = replace(prepared("resnet18").card, precisions=("exact", "balanced", "fast"), auto=auto)
    assert explained(card, {}).precision == "exact"
    options = pb.RequestOptions(precision=pb.Precision.Value(f"PRECISION_{precision}"))
    with pytest.raises(RequestError, match="lrp is computed in EXACT alone"):
        explained(card, {}, options=options)
    image = tensor(np.zeros((card.height, card.width, 3), np.uint8))
    request = dx.DifferentiateRequest(images=[image], rule=dx.BACKWARD_RULE_LRP_GAMMA)
    assert differentiate.bind(request, context(card)).task.precision == "exact"
    request.options.CopyFrom(options)
    with pytest.raises(RequestError, match="the rule LRP_GAMMA is computed in EXACT alone"):
        differentiate.bind(request, context(card))


def test_the_maps_of_an_attack_are_in_exact() -> None:
    card = prepared("resnet18").card
    image = tensor(np.zeros((card.height, card.width, 3), np.uint8))
    request = attack_pb2.AttackRequest(preprocess=pb.PREPROCESS_AS_IS, image=image, method={"fgsm": {}})
    request.maps.lrp.SetInParent()
    card = replace(card, precisions=("exact", "fast"), auto={"attack": "fast"})
    bound = attack.bind(request, context(card))
    assert bound.task.precision == "fast"
    assert map_task(bound, bound.task.image, "before").precision == "exact"


def test_input_rules_and_rules_that_do_not_apply() -> None:
    card = replace(prepared("resnet18").card, input_rules_refused="its image is shifted first")
    assert explained(card, {})
    with pytest.raises(RequestError, match="input_rule of lrp does not apply to resnet18: its image is shifted first"):
        explained(card, {"input_rule": 2})
    card = prepared("densenet121").card
    with pytest.raises(RequestError, match="a BatchNorm that could not be folded"):
        explained(card, {})
    image = tensor(np.zeros((card.height, card.width, 3), np.uint8))
    request = dx.DifferentiateRequest(images=[image], rule=dx.BACKWARD_RULE_LRP_EPSILON)
    with pytest.raises(RequestError, match="the rule LRP_EPSILON does not apply to densenet121"):
        differentiate.bind(request, context(card))


def test_a_target_beside_the_way_to_the_logits_is_refused() -> None:
    """Relevance is checked for the operations that lead to the logits, and another output may have others."""
    card = prepared("resnet18").card
    layer = card.layer("layer3")
    assert layer is not None
    target = pb.Target(unit=pb.Unit(layer="layer3", channel=0))
    assert explained(card, {}, targets=[target])
    assert explained(card, {}, targets=[pb.Target(unit=pb.Unit(layer="fc", channel=0))])
    aside = replace(card, upstream=card.upstream & ~(1 << layer.number))
    with pytest.raises(RequestError, match="lrp does not apply to layer3: relevance is checked only for layers"):
        explained(aside, {}, targets=[target])
    image = tensor(np.zeros((card.height, card.width, 3), np.uint8))
    request = dx.DifferentiateRequest(images=[image], rule=dx.BACKWARD_RULE_LRP_EPSILON)
    request.goals.add().summands.add().target.CopyFrom(target)
    assert differentiate.bind(request, context(card))
    with pytest.raises(RequestError, match="the rule LRP_EPSILON does not apply to layer3"):
        differentiate.bind(request, context(aside))
