"""Contrasts and similarities wherever a target is, through a real server."""

from typing import Any

import grpc
import pytest
from serving import PATIENCE, Stubs, methods, picture, refused, values
from zoo import off

from gradserve.v1 import attack_pb2, explain_pb2, influence_pb2, maximize_pb2, predict_pb2
from gradserve.v1 import common_pb2 as pb

IMAGE = picture(0, 64, 64)
SMALL = {"model": "small", "image": IMAGE, "preprocess": 3}


def contrast(*terms: tuple[dict[str, Any], float], **fields: Any) -> dict[str, Any]:
    return {"contrast": {"terms": [{"target": target, "weight": weight} for target, weight in terms], **fields}}


def explain(stubs: Stubs, *targets: Any, **fields: Any) -> Any:
    fields = {"methods": methods(gradient={"reduce": 3}), **fields}
    request = explain_pb2.ExplainRequest(**{**SMALL, "targets": targets, **fields})
    return stubs.gradients.Explain(request, timeout=PATIENCE).explanations


def top(stubs: Stubs, count: int) -> list[Any]:
    request = predict_pb2.PredictRequest(**SMALL, top_k=count)
    return list(stubs.gradients.Predict(request, timeout=PATIENCE).top)


def classes(target: Any) -> list[int]:
    return [term.target.class_index for term in target.contrast.terms]


def test_the_map_of_a_difference_is_the_difference_of_the_maps(stubs: Stubs) -> None:
    both = contrast(({"class_index": 3}, 1.0), ({"class_index": 7}, -0.5))
    a, b, difference = explain(stubs, {"class_index": 3}, {"class_index": 7}, both)
    assert off(values(difference.raw), values(a.raw) - 0.5 * values(b.raw)) < 1e-4
    assert difference.target_value == pytest.approx(a.target_value - 0.5 * b.target_value, rel=1e-4)
    names = a.target_name, b.target_name
    assert difference.target_name == f"{names[0]} - 0.5 {names[1]}"
    assert classes(difference.target) == [3, 7]


def test_the_others_of_the_top_are_told(stubs: Stubs) -> None:
    best = top(stubs, 5)
    (found,) = explain(stubs, contrast(({"rank": 2}, 1.0), others_of_top=5))
    order = [best[1], best[0], *best[2:]]
    assert classes(found.target) == [each.class_index for each in order]
    assert [term.weight for term in found.target.contrast.terms] == [1.0, *[-0.25] * 4]
    assert found.target_value == pytest.approx(best[1].logit - sum(each.logit for each in order[1:]) / 4, abs=1e-4)
    names = [each.class_name for each in order]
    assert found.target_name == f"{names[0]} - 0.25 ({', '.join(names[1:4])}, and 1 more)"
    (again,) = explain(stubs, found.target)
    assert off(values(again.raw), values(found.raw)) < 1e-4, "the target of a reply may be sent as it is"


def test_units_and_classes_add_up(stubs: Stubs) -> None:
    unit = {"unit": {"layer": "features.14", "channel": 5}}
    a, b, total = explain(stubs, {"rank": 1}, unit, contrast(({"rank": 1}, 1.0), (unit, 2.0)))
    assert off(values(total.raw), values(a.raw) + 2 * values(b.raw)) < 1e-4
    assert total.target_name == f"{a.target_name} + 2 features.14:5"


def test_grad_cam_of_units_takes_a_layer_before_them(stubs: Stubs) -> None:
    units = [({"unit": {"layer": layer, "channel": 1}}, 1.0) for layer in ("features.14", "features.6")]
    (found,) = explain(stubs, contrast(*units), methods=methods(grad_cam={}))
    layer = found.method.grad_cam.layer
    assert layer == "features.6.conv", "inside of the earlier of both"
    with pytest.raises(grpc.RpcError) as caught:
        explain(stubs, contrast(*units), methods=methods(grad_cam={"layer": "features.10"}))
    text = refused(caught.value).violations["methods[0].grad_cam.layer"]
    assert (
        text
        == "features.10 does not run before the target's layer features.6; name an earlier layer, or leave layer out"
    )


def test_a_similarity_has_the_models_layer(stubs: Stubs) -> None:
    like = {"similarity": {"image": picture(5, 64, 64), "preprocess": 3}}
    same = {"similarity": {"image": IMAGE, "preprocess": 3}}
    found, own, cam = (explain(stubs, t, methods=methods(**m))[0] for t, m in _similar(like, same))
    assert 0 < found.target_value < 1
    assert own.target_value == pytest.approx(1, abs=1e-5)
    assert found.target_name == "similarity in features"
    assert found.target.similarity.layer == "features"
    assert not found.target.similarity.HasField("image"), "it does not travel back"
    assert cam.method.grad_cam.layer == "features", "every channel of the layer counts, so that it may be by itself"
    assert values(cam.raw).any()


def _similar(like: Any, same: Any) -> list[tuple[Any, dict[str, Any]]]:
    return [(like, {"gradient": {}}), (same, {"gradient": {}}), (like, {"grad_cam": {"signed": True}})]


def test_the_maps_of_an_attack_may_explain_its_target_rather_than_the_true_class(stubs: Stubs) -> None:
    first, second = top(stubs, 2)
    target = contrast(({"class_index": second.class_index}, 1.0), ({"class_index": first.class_index}, -1.0))
    request = attack_pb2.AttackRequest(
        **SMALL,
        method={"pgd": {"steps": 3}},
        target={"class_index": second.class_index},
        maps={"gradient": {"reduce": 3}},
        maps_target=target,
    )
    reply = stubs.gradients.Attack(request, timeout=PATIENCE)
    (before,) = explain(stubs, target)
    for found in (reply.map_before, reply.map_after):
        assert classes(found.target) == [second.class_index, first.class_index]
    assert off(values(reply.map_before.raw), values(before.raw)) < 1e-4
    assert reply.map_after.target_value > reply.map_before.target_value


def test_maximize_climbs_contrasts_and_similarities(stubs: Stubs) -> None:
    targets = [contrast(({"class_index": 3}, 1.0), ({"class_index": 7}, -1.0)), {"similarity": {"image": IMAGE}}]
    request = maximize_pb2.MaximizeRequest(
        model="small",
        goals=[{"summands": [{"target": target}]} for target in targets],
        preset=5,
        settings={"steps": 20, "rate": 0.003},
        size={"longer": 64},
    )
    images = stubs.gradients.Maximize(request, timeout=PATIENCE).images
    assert classes(images[0].goal.summands[0].target) == [3, 7]
    assert images[1].name == "similarity in features"
    for each in images:
        (curve,) = (curve for curve in each.curves if curve.name == "objective")
        assert curve.values[-1] > curve.values[0]


A, B = {"class_index": 3}, {"class_index": 7}
LIKE = {"similarity": {"image": IMAGE}}
WRONG: dict[str, tuple[Any, str, str]] = {
    "no terms": (contrast(), "contrast.terms", "must be 1 to 16, were 0"),
    "too many terms": (contrast(*[(A, 1.0)] * 17), "contrast.terms", "must be 1 to 16, were 17"),
    "a class less itself": (contrast((A, 1.0), (A, -1.0)), "contrast.terms", "contrast a target with itself"),
    "a weight of 0": (contrast((A, 0.0)), "contrast.terms[0].weight", "must be a number other than 0"),
    "a weight that is NaN": (contrast((A, 1.0), (B, float("nan"))), "contrast.terms[1].weight", "was nan"),
    "a huge weight": (contrast((A, 1e10)), "contrast.terms[0].weight", "at most 1e+09"),
    "a top of one": (contrast((A, 1.0), others_of_top=1), "contrast.others_of_top", "must be from 2 to 100, was 1"),
    "an unknown class": (
        contrast(({"class_name": "no such"}, 1.0)),
        "contrast.terms[0].target.class_name",
        "small has no class 'no such'",
    ),
    "a contrast of contrasts": (
        contrast((contrast((A, 1.0)), 1.0)),
        "contrast.terms[0].target",
        "must be a class, rank, unit or channel",
    ),
    "a contrast of a similarity": (
        contrast((LIKE, 1.0)),
        "contrast.terms[0].target",
        "must be a class, rank, unit or channel",
    ),
    "no other picture": ({"similarity": {}}, "similarity.image", "no picture was sent"),
    "an unknown layer": (
        {"similarity": {"image": IMAGE, "layer": "features.99"}},
        "similarity.layer",
        "has no layer 'features.99'",
    ),
    "an unknown preprocessing": (
        {"similarity": {"image": IMAGE, "preprocess": 9}},
        "similarity.preprocess",
        "must be one of",
    ),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong(stubs: Stubs, case: tuple[Any, str, str]) -> None:
    target, path, text = case
    with pytest.raises(grpc.RpcError) as caught:
        explain(stubs, target)
    found = refused(caught.value)
    assert (found.code, list(found.violations)) == ("INVALID_ARGUMENT", [f"targets[0].{path}"])
    assert text in found.violations[f"targets[0].{path}"]


def test_a_similarity_has_a_layer_where_grad_cam_has_none(stubs: Stubs) -> None:
    """The features of a vector are its numbers."""
    like = {"similarity": {"image": picture(5, 8, 12), "preprocess": 3}}
    fields: dict[str, Any] = {"model": "linear", "image": picture(0, 8, 12)}
    with pytest.raises(grpc.RpcError) as caught:
        explain(stubs, like, **fields)
    text = refused(caught.value).violations["targets[0].similarity.layer"]
    assert text == "must be named, since linear has no usual layer for Grad-CAM"
    like["similarity"]["layer"] = "1"
    (found,) = explain(stubs, like, **fields)
    assert -1 <= found.target_value <= 1
    assert found.target_name == "similarity in 1"


def test_log_probabilities_are_of_single_classes(stubs: Stubs) -> None:
    for target in (contrast((A, 1.0), (B, -1.0)), LIKE, {"unit": {"layer": "features.14", "channel": 5}}):
        with pytest.raises(grpc.RpcError) as caught:
            explain(stubs, target, methods=methods(gradient={"log_prob": True}))
        text = refused(caught.value).violations["methods[0].gradient.log_prob"]
        assert text == "applies to single classes as targets only"


def test_a_rank_that_is_the_class_it_is_contrasted_with(stubs: Stubs) -> None:
    first = top(stubs, 1)[0].class_index
    with pytest.raises(grpc.RpcError) as caught:
        explain(stubs, contrast(({"rank": 1}, 1.0), ({"class_index": first}, -1.0)))
    found = refused(caught.value)
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "NOT_APPLICABLE")
    assert f"class {first} is contrasted with itself" in found.text


@pytest.mark.parametrize("target", [contrast((A, 1.0)), LIKE], ids=["contrast", "similarity"])
def test_labels_are_classes(stubs: Stubs, target: Any) -> None:
    attack = attack_pb2.AttackRequest(**SMALL, method={"fgsm": {}}, label=target)
    influence = influence_pb2.InfluenceRequest(model="digits", image=picture(0, 8, 8), label=target)
    for call, request in ((stubs.gradients.Attack, attack), (stubs.gradients.Influence, influence)):
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=PATIENCE)
        assert "must be a class_index" in refused(caught.value).violations["label"]


def test_a_target_of_maps_needs_maps(stubs: Stubs) -> None:
    request = attack_pb2.AttackRequest(**SMALL, method={"fgsm": {}}, maps_target=pb.Target(class_index=1))
    with pytest.raises(grpc.RpcError) as caught:
        stubs.gradients.Attack(request, timeout=PATIENCE)
    assert refused(caught.value).violations == {"maps_target": "is what maps explain: set maps too, or leave it out"}


def test_a_contrast_with_a_rank_needs_a_picture_to_start_from(stubs: Stubs) -> None:
    goal: Any = {"summands": [{"target": contrast((A, 1.0), others_of_top=3)}]}
    with pytest.raises(grpc.RpcError) as caught:
        stubs.gradients.Maximize(maximize_pb2.MaximizeRequest(model="small", goals=[goal]), timeout=PATIENCE)
    assert "a rank needs a picture" in refused(caught.value).violations["goals[0].summands[0].target"]
