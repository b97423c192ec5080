"""A model that is not there does not hide what else is wrong with a request."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from serving import PATIENCE, Refused, Server, Stubs, picture, refused

from gradserve.v1 import (
    attack_pb2,
    certify_pb2,
    concepts_pb2,
    dense_pb2,
    differentiate_pb2,
    exemplars_pb2,
    explain_pb2,
    influence_pb2,
    inspect_pb2,
    maximize_pb2,
    predict_pb2,
    project_pb2,
    stylize_pb2,
)

PICTURE = picture(0, 8, 8)
PICTURES = [picture(i, 8, 8) for i in range(3)]
BAD_OPTIONS = {"priority": 9, "precision": 9, "time_budget": {"seconds": -1}}
OPTIONS = {"options.priority", "options.precision", "options.time_budget"}
SMOOTH = {"smooth_grad": {"samples": 0, "noise": 2.0}}
CASES: dict[str, tuple[Any, set[str]]] = {
    "Predict": (
        predict_pb2.PredictRequest(image={"encoded": b"no picture"}, top_k=0, preprocess=9, options=BAD_OPTIONS),
        {"image", "top_k", "preprocess", *OPTIONS},
    ),
    "Explain": (
        explain_pb2.ExplainRequest(
            methods=[SMOOTH, {}], targets=[{"class_name": "no class"}], format=9, options=BAD_OPTIONS, image=PICTURE
        ),
        {"methods[0].smooth_grad.samples", "methods[0].smooth_grad.noise", "methods[1]", "format", *OPTIONS},
    ),
    "Attack": (
        attack_pb2.AttackRequest(
            image=PICTURE,
            method={"pgd": {"steps": 0}},
            norm=9,
            eps=-1,
            loss=9,
            adaptive=True,
            label={"rank": 1},
            options=BAD_OPTIONS,
        ),
        {"method.pgd.steps", "norm", "eps", "loss", "adaptive", "label", *OPTIONS},
    ),
    "Certify": (
        certify_pb2.CertifyRequest(
            image={"encoded": b"no picture"},
            preprocess=9,
            sigma=0,
            selection_samples=0,
            samples=100_001,
            alpha=0.5,
            options=BAD_OPTIONS,
        ),
        {"image", "preprocess", "sigma", "selection_samples", "samples", "alpha", *OPTIONS},
    ),
    "Maximize": (
        maximize_pb2.MaximizeRequest(
            goals=[{}, {"summands": [{"weight": float("nan"), "layer": "no layer"}]}],
            preset=99,
            settings={"steps": 0},
            snapshots=[10**6],
            size={"longer": 8, "width": 8},
            options=BAD_OPTIONS,
        ),
        {"goals[0].summands", "goals[1].summands[0].weight", "preset", "settings.steps", "snapshots", "size", *OPTIONS},
    ),
    "Stylize": (
        stylize_pb2.StylizeRequest(
            content=PICTURE,
            styles=[{"image": {"encoded": b"x"}, "weight": -1.0}],
            style_layers=[{"layer": "no layer", "weight": 0.0}],
            settings={"pad": 2.0},
            options=BAD_OPTIONS,
        ),
        {"styles[0].image", "styles[0].weight", "style_layers[0].weight", "settings.pad", *OPTIONS},
    ),
    "Influence": (
        influence_pb2.InfluenceRequest(
            image=PICTURE, goal=9, top=0, what_if=[{"rows": [], "weight": -2.0}], options=BAD_OPTIONS
        ),
        {"goal", "top", "what_if[0].rows", "what_if[0].weight", *OPTIONS},
    ),
    "Exemplars": (
        exemplars_pb2.ExemplarsRequest(layer="no layer", channels=range(65), count=0, top=0),
        {"channels", "count", "top"},
    ),
    "Suspects": (influence_pb2.SuspectsRequest(order=9, top=0), {"order", "top"}),
    "Differentiate": (
        differentiate_pb2.DifferentiateRequest(
            images=[PICTURE, {"encoded": b"no picture"}],
            goals=[
                {"summands": [{"target": {"contrast": {"terms": [{"weight": float("inf")}], "others_of_top": 1}}}]},
                {"summands": [{"logits": {"dtype": 1}}]},
            ],
            rule=9,
            format=9,
            preprocess=9,
            options=BAD_OPTIONS,
        ),
        {
            "images[1]",
            "goals[0].summands[0].target.contrast.terms[0].weight",
            "goals[0].summands[0].target.contrast.others_of_top",
            "goals[1].summands[0].logits.dtype",
            "rule",
            "format",
            "preprocess",
            *OPTIONS,
        },
    ),
    "Inspect": (
        inspect_pb2.InspectRequest(
            activations={
                "layer": "no layer",
                "image": {"encoded": b"no picture"},
                "preprocess": 9,
                "channels": [0],
                "count": 999,
                "order": 9,
            },
            options=BAD_OPTIONS,
        ),
        {"activations.image", "activations.preprocess", "activations.count", "activations.order", *OPTIONS},
    ),
    "Concepts": (
        concepts_pb2.ConceptsRequest(
            concept_images=[PICTURE] * 3,
            negative_images=[PICTURE, {"encoded": b"no picture"}, PICTURE],
            classes=[{"unit": {"layer": "no layer"}}],
            class_images=[PICTURE] * 129,
            preprocess=9,
            random_directions=19,
            keep_as="no/name",
            options=BAD_OPTIONS,
        ),
        {
            "concept_images",
            "negative_images[1]",
            "classes[0]",
            "class_images",
            "preprocess",
            "random_directions",
            "keep_as",
            *OPTIONS,
        },
    ),
    "Project": (
        project_pb2.ProjectRequest(
            images=[PICTURE, {"encoded": b"no picture"}],
            layer="no layer",
            preprocess=9,
            method=9,
            neighbours=0,
            points=10_001,
            options=BAD_OPTIONS,
        ),
        {"images[1]", "preprocess", "method", "neighbours", "points", *OPTIONS},
    ),
    "Dense": (
        dense_pb2.DenseRequest(
            image={"encoded": b"no picture"},
            targets=[{"unit": {"layer": "no layer"}}],
            size={"longer": 8, "width": 8},
            options=BAD_OPTIONS,
        ),
        {"image", "targets[0]", "size", *OPTIONS},
    ),
    "Embed": (
        influence_pb2.EmbedRequest(image=PICTURE, layer="no layer", pooling=9, options=BAD_OPTIONS),
        {"pooling", *OPTIONS},
    ),
}


def failure(stubs: Stubs, rpc: str, request: Any, model: str) -> Refused:
    asked = type(request)(model=model)
    asked.MergeFrom(request)
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stubs.gradients, rpc)(asked, timeout=PATIENCE)
    return refused(caught.value)


@pytest.mark.parametrize("rpc", CASES)
def test_everything_that_is_wrong_for_every_model_is_told(stubs: Stubs, rpc: str) -> None:
    request, fields = CASES[rpc]
    found = failure(stubs, rpc, request, "didgits")
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert set(found.violations) == {"model", *fields}
    assert "nearest: digits" in found.violations["model"]


@pytest.mark.parametrize("rpc", CASES)
def test_a_model_that_is_there_hides_none_of_it(stubs: Stubs, rpc: str) -> None:
    request, fields = CASES[rpc]
    assert fields <= set(failure(stubs, rpc, request, "digits").violations)


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("Predict", predict_pb2.PredictRequest(image=PICTURE)),
        ("Predict", predict_pb2.PredictRequest(image=picture(0, 3, 5), preprocess=3)),
        ("Explain", explain_pb2.ExplainRequest(image=PICTURE, methods=[{"grad_cam": {"layer": "of another"}}])),
        ("Explain", explain_pb2.ExplainRequest(image=PICTURE, methods=[{"gradient": {}}], targets=[{"rank": 9999}])),
        ("Attack", attack_pb2.AttackRequest(image=PICTURE, method={"pgd": {}}, label={"class_index": 9999})),
        ("Maximize", maximize_pb2.MaximizeRequest(goals=[{"summands": [{"layer": "of another"}]}])),
        ("Stylize", stylize_pb2.StylizeRequest(content=PICTURE, content_layers=[{"layer": "of another"}])),
        ("Influence", influence_pb2.InfluenceRequest(image=PICTURE, label={"class_name": "no class"})),
        ("Embed", influence_pb2.EmbedRequest(image=PICTURE, layer="of another")),
        (
            "Concepts",
            concepts_pb2.ConceptsRequest(
                concept_images=PICTURES, negative_images=PICTURES, layer="of another", classes=[{"class_index": 9999}]
            ),
        ),
        ("Dense", dense_pb2.DenseRequest(image=PICTURE, targets=[{"class_name": "no class"}])),
        ("Inspect", inspect_pb2.InspectRequest(weights={"layer": "of another"})),
        ("Project", project_pb2.ProjectRequest(images=[PICTURE], layer="of another", method=2)),
        ("Inspect", inspect_pb2.InspectRequest(table={"images": [PICTURE], "labels": [9999]})),
        ("Differentiate", differentiate_pb2.DifferentiateRequest(images=[PICTURE], layer="of another")),
        (
            "Differentiate",
            differentiate_pb2.DifferentiateRequest(
                images=[PICTURE],
                goals=[{"summands": [{"logits": {"dtype": 2, "shape": [3], "data": b"\0" * 11 + b"\1"}}]}],
            ),
        ),
    ],
)
def test_what_may_be_right_for_that_model_is_not_blamed(stubs: Stubs, rpc: str, request_: Any) -> None:
    found = failure(stubs, rpc, request_, "didgits")
    assert (found.code, found.reason, dict(found.violations)) == ("NOT_FOUND", "UNKNOWN_MODEL", {})


@pytest.fixture(scope="module")
def lame() -> Iterator[Stubs]:
    config = '[models.digits]\n[models.lost]\nbuilder = "resnet18"\nweights = "no-such-file.safetensors"\n'
    with Server(config, "--workers", "1") as server, server.channel() as channel:
        yield Stubs.of(channel)


def test_a_model_that_could_not_be_loaded_hides_nothing_either(lame: Stubs) -> None:
    request, fields = CASES["Predict"]
    found = failure(lame, "Predict", request, "lost")
    assert (found.code, set(found.violations)) == ("INVALID_ARGUMENT", {"model", *fields})
    assert "model lost could not be loaded" in found.violations["model"]
    found = failure(lame, "Predict", predict_pb2.PredictRequest(image=PICTURE), "lost")
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "MODEL_UNAVAILABLE")
