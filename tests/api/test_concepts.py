"""Concepts through a real server: its answer against plain torch, what is refused, and directions that are kept."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from serving import MODELS, PATIENCE, Refused, Server, Stubs, methods, picture, refused, values
from zoo import prepared

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import concepts_pb2, concepts_pb2_grpc, differentiate_pb2, explain_pb2, maximize_pb2
from gradserve_server.api.directions import DirectionStore, KeptDirection
from gradserve_server.api.errors import RequestError
from gradserve_server.api.request import CallContext
from gradserve_server.api.rpcs import concepts
from gradserve_server.config import LimitSettings
from gradserve_server.models.served import ServedModels

CONCEPT = [picture(i, 64, 64) for i in range(6)]
NEGATIVES = [picture(i, 64, 64) for i in range(10, 18)]
OTHERS = [picture(i, 64, 64) for i in range(20, 22)]
LAYER = "features.18"  # The last one of mobilenet_v2 before its head, whose average goes into that.
TOKENS = """
[ann]
sha256 = "{ann}"
[bob]
sha256 = "{bob}"
"""


def asked(**fields: Any) -> concepts_pb2.ConceptsRequest:
    facts = {"model": "small", "concept_images": CONCEPT, "negative_images": NEGATIVES, **fields}
    return concepts_pb2.ConceptsRequest(**facts)


def failed(call: Any, request: Any, **facts: Any) -> Refused:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=PATIENCE, **facts)
    return refused(caught.value)


def kept(server: Server) -> Any:
    return concepts_pb2_grpc.DirectionServiceStub(server.channel())


def names(service: Any, **facts: Any) -> list[str]:
    return [each.name for each in service.ListDirections(concepts_pb2.ListDirectionsRequest(), **facts).directions]


def test_the_answer_without_class_pictures(stubs: Stubs) -> None:
    reply = stubs.gradients.Concepts(asked())
    assert reply.by_weights
    assert reply.direction.layer == "features"
    vector = np.array(reply.direction.vector)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert len(reply.classes) == 1000
    assert [row.rank for row in reply.classes] == list(range(1, 1001))
    derivatives = [row.derivative for row in reply.classes]
    assert derivatives == sorted(derivatives, reverse=True)
    assert reply.warnings[0].startswith("FEW_PICTURES: 6 concept_images, 8 negative_images")
    assert not reply.HasField("expires")
    verdicts = {row.verdict for row in reply.classes if abs(row.z) < reply.z_threshold}
    assert verdicts == {concepts_pb2.CONCEPT_VERDICT_INSIGNIFICANT}


def test_named_classes_have_the_derivatives_that_they_have_among_all(stubs: Stubs) -> None:
    every = {row.target.class_index: row for row in stubs.gradients.Concepts(asked()).classes}
    reply = stubs.gradients.Concepts(asked(classes=[{"class_index": 7}, {"class_index": 3}]))
    assert {row.target.class_index for row in reply.classes} == {3, 7}
    for row in reply.classes:
        expected = every[row.target.class_index]
        assert (row.derivative, row.z, row.rank) == (
            pytest.approx(expected.derivative, rel=1e-4),
            pytest.approx(expected.z, rel=1e-3, abs=1e-3),
            expected.rank,
        )


def test_the_weights_say_what_class_pictures_say_behind_which_all_is_linear(stubs: Stubs) -> None:
    wanted = [{"class_index": 7}, {"class_index": 3}]
    by_weights = stubs.gradients.Concepts(asked(classes=wanted))
    by_pictures = stubs.gradients.Concepts(asked(classes=wanted, class_images=OTHERS))
    assert not by_pictures.by_weights
    assert not any(row.HasField("rank") for row in by_pictures.classes)
    for one, other in zip(by_weights.classes, by_pictures.classes, strict=True):
        assert one.derivative == pytest.approx(other.derivative, rel=1e-3)


def test_a_middle_layer_and_a_rank(stubs: Stubs) -> None:
    request = asked(layer="features.9", classes=[{"rank": 1}, {"class_index": 3}], class_images=OTHERS)
    reply = stubs.gradients.Concepts(request)
    assert {row.name for row in reply.classes} == {"rank 1", reply.classes[0].name, reply.classes[1].name}
    assert "rank 1" in {row.name for row in reply.classes}
    # The gradients by the layer, as Differentiate has them.
    goal = {"summands": [{"target": {"class_index": 3}}]}
    differentiate = differentiate_pb2.DifferentiateRequest(
        model="small", images=OTHERS, goals=[goal], layer="features.9", preprocess=1
    )
    gradients = values(stubs.gradients.Differentiate(differentiate).gradient).sum((2, 3)).mean(0)
    (row,) = [row for row in reply.classes if row.target.WhichOneof("kind") == "class_index"]
    assert row.derivative == pytest.approx(gradients @ np.array(reply.direction.vector), rel=1e-3)


def test_all_classes_of_a_small_network_at_an_early_layer(stubs: Stubs) -> None:
    reply = stubs.gradients.Concepts(asked(model="digits", class_images=OTHERS, random_directions=30))
    assert sorted(row.rank for row in reply.classes) == list(range(1, 11))
    assert reply.random_directions == 30


SAME = [CONCEPT[0]] * 4
REFUSALS: dict[str, tuple[Mapping[str, Any], str, str]] = {
    "no pictures": ({"concept_images": []}, "concept_images", "must be 3 to 128, were 0"),
    "two pictures": ({"concept_images": CONCEPT[:2]}, "concept_images", "must be 3 to 128, were 2"),
    "two negatives": ({"negative_images": CONCEPT[:2]}, "negative_images", "must be 3 to 256, were 2"),
    "the same picture": ({"concept_images": SAME}, "concept_images", "4 times the same picture"),
    "the same negative": ({"negative_images": SAME}, "negative_images", "4 times the same picture"),
    "no picture": ({"concept_images": [*CONCEPT, {"encoded": b"x"}]}, "concept_images[6]", ""),
    "other sizes": (
        {"negative_images": [*NEGATIVES, picture(0, 32, 64)], "preprocess": 3},
        "negative_images[8]",
        "is 64x32 where concept_images[0] is 64x64",
    ),
    "no such layer": ({"layer": "features.99"}, "layer", "small has no layer"),
    "an early layer without class pictures": ({"layer": "features.3"}, "class_images", "are needed at features.3"),
    "no such class": ({"classes": [{"class_index": 1000}]}, "classes[0].class_index", "from 0 to 999"),
    "a unit": ({"classes": [{"unit": {"layer": LAYER}}]}, "classes[0]", "index or name, or a rank"),
    "a rank of no pictures": ({"classes": [{"rank": 1}]}, "classes[0]", "send class_images"),
    "many classes": ({"classes": [{"class_index": 1}] * 17}, "classes", "must be at most 16, were 17"),
    "many gradients": ({"class_images": CONCEPT * 3}, "class_images", "make 18000 gradients"),
    "few directions": ({"random_directions": 19}, "random_directions", "must be from 20 to 500, was 19"),
    "no name": ({"keep_as": "a/b"}, "keep_as", "must be 1 to 64 letters"),
    "a long name": ({"keep_as": "a" * 65}, "keep_as", "must be 1 to 64 letters"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_wrong_is_told_by_its_field(stubs: Stubs, case: str) -> None:
    fields, field, text = REFUSALS[case]
    found = failed(stubs.gradients.Concepts, asked(**fields))
    assert found.code == "INVALID_ARGUMENT"
    assert text in found.violations[field]


def test_pictures_that_the_layer_cannot_tell_apart(stubs: Stubs) -> None:
    found = failed(stubs.gradients.Concepts, asked(negative_images=CONCEPT))
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "NOT_APPLICABLE")
    assert "gives the same for the concept and the negatives" in found.text


def test_a_layer_without_channels_is_refused() -> None:
    card = prepared("squeezenet1_1").card
    odd = tuple(replace(each, layout="other") if each.name == "features.3" else each for each in card.layers)
    served = ServedModels([replace(card, layers=odd)])
    at = CallContext("id", time.monotonic(), None, served, LimitSettings())
    with pytest.raises(RequestError) as caught:
        concepts.bind(asked(model="squeezenet1_1", layer="features.3", class_images=OTHERS), at)
    assert dict(caught.value.violations)["layer"].startswith("features.3 has no channels")


def test_no_layer_that_needs_no_pictures_is_proposed_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concepts, "gives_averages", lambda *_: False)
    served = ServedModels([prepared("squeezenet1_1").card])
    at = CallContext("id", time.monotonic(), None, served, LimitSettings())
    with pytest.raises(RequestError) as caught:
        concepts.bind(asked(model="squeezenet1_1"), at)
    assert dict(caught.value.violations)["class_images"].endswith("send some (of anything)")


def test_what_a_killed_front_end_left_is_written_over(tmp_path: Path) -> None:
    own = DirectionStore(tmp_path, LimitSettings()).of("ann")
    direction = KeptDirection("one", "small", "digest", "layer", np.ones(3, np.float32))
    own.keep(direction)
    (folder,) = tmp_path.iterdir()
    (folder / "part").write_text("half of")
    own.keep(replace(direction, name="two"))
    assert [each.name for each in own.all()] == ["one", "two"]
    assert {path.name for path in folder.iterdir()} == {"lock", "one.json", "two.json"}


def test_a_direction_that_cannot_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = DirectionStore(tmp_path, LimitSettings()).of("ann")
    direction = KeptDirection("one", "small", "digest", "layer", np.ones(3, np.float32))
    monkeypatch.setattr(Path, "replace", raising(OSError("the disk is full")))
    for _ in range(3):
        with pytest.raises(OSError, match="full"):
            own.keep(direction)
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} <= {"lock", "part"}


def raising(error: Exception) -> Any:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_a_kept_direction_is_a_target_of_three_rpcs(server: Server, stubs: Stubs) -> None:
    reply = stubs.gradients.Concepts(asked(keep_as="three.rpcs"))
    assert reply.direction.name == "three.rpcs"
    left = reply.expires.ToSeconds() - time.time()
    assert 86_000 < left < 86_500
    listed = kept(server).ListDirections(concepts_pb2.ListDirectionsRequest()).directions
    (own,) = [each for each in listed if each.name == "three.rpcs"]
    assert (own.model, own.layer, own.channels) == ("small", "features", 1280)
    inline = {"layer": reply.direction.layer, "vector": reply.direction.vector}
    named = {"name": "three.rpcs"}
    differentiated = []
    for direction in (inline, named):
        goals = [{"summands": [{"target": {"direction": direction}}]}, {"summands": [{"direction": direction}]}]
        request = differentiate_pb2.DifferentiateRequest(model="small", images=CONCEPT[:2], goals=goals, preprocess=1)
        differentiated.append(stubs.gradients.Differentiate(request))
    np.testing.assert_allclose(values(differentiated[0].gradient), values(differentiated[1].gradient), rtol=1e-5)
    for direction in (inline, named):
        target = pb.Target(direction=direction)
        request = explain_pb2.ExplainRequest(
            model="small", image=CONCEPT[0], targets=[target], methods=methods(gradient={}, grad_cam={})
        )
        gradient, cam = stubs.gradients.Explain(request).explanations
        assert gradient.target_value == pytest.approx(differentiated[0].values[0], rel=1e-4)
        assert gradient.target.direction.layer == "features"
        assert cam.target_name == f"{direction.get('name', 'a direction')} in features"
        goal = maximize_pb2.Goal(summands=[{"direction": direction}])
        request = maximize_pb2.MaximizeRequest(model="small", goals=[goal], settings={"steps": 2})
        (image,) = stubs.gradients.Maximize(request).images
        assert image.name == f"{direction.get('name', 'a direction')} in features"
    kept(server).DeleteDirection(concepts_pb2.DeleteDirectionRequest(name="three.rpcs"))
    assert "three.rpcs" not in names(kept(server))


BAD_DIRECTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "another length": ({"layer": LAYER, "vector": [1.0] * 7}, "vector", "must have 1280 numbers"),
    "too large": ({"layer": LAYER, "vector": [1.0] * 100_000}, "vector", "must have 1280 numbers"),
    "not finite": ({"layer": LAYER, "vector": [float("nan")] * 1280}, "vector", "must be finite numbers"),
    "zero": ({"layer": LAYER, "vector": [0.0] * 1280}, "vector", "not all of them 0"),
    "no such layer": ({"layer": "of another", "vector": [1.0]}, "layer", "has no layer"),
    "both": ({"layer": LAYER, "vector": [1.0], "name": "a"}, "", "send one of both"),
}


@pytest.mark.parametrize("case", BAD_DIRECTIONS)
def test_directions_at_fault_are_told_by_all_three(stubs: Stubs, case: str) -> None:
    direction, field, text = BAD_DIRECTIONS[case]
    end = f".{field}" if field else ""
    explain = explain_pb2.ExplainRequest(
        model="small", image=CONCEPT[0], targets=[{"direction": direction}], methods=methods(gradient={})
    )
    found = failed(stubs.gradients.Explain, explain)
    assert text in found.violations[f"targets[0].direction{end}"]
    goal = {"summands": [{"direction": direction}]}
    for call, request in (
        (stubs.gradients.Maximize, maximize_pb2.MaximizeRequest(model="small", goals=[goal])),
        (
            stubs.gradients.Differentiate,
            differentiate_pb2.DifferentiateRequest(model="small", images=CONCEPT[:1], goals=[goal], preprocess=1),
        ),
    ):
        assert text in failed(call, request).violations[f"goals[0].summands[0].direction{end}"]


def test_a_name_that_is_not_there_and_other_faults(stubs: Stubs) -> None:
    request = explain_pb2.ExplainRequest(
        model="small", image=CONCEPT[0], targets=[{"direction": {"name": "nobody's"}}], methods=methods(gradient={})
    )
    found = failed(stubs.gradients.Explain, request)
    assert (found.code, found.reason) == ("NOT_FOUND", "UNKNOWN_DIRECTION")
    request.preprocess = 9
    found = failed(stubs.gradients.Explain, request)
    assert found.code == "INVALID_ARGUMENT"
    assert set(found.violations) == {"preprocess", "targets[0].direction.name"}


def test_a_direction_of_another_model_is_refused(server: Server, stubs: Stubs) -> None:
    stubs.gradients.Concepts(asked(keep_as="of.small"))
    request = explain_pb2.ExplainRequest(
        model="digits", image=CONCEPT[0], targets=[{"direction": {"name": "of.small"}}], methods=methods(gradient={})
    )
    found = failed(stubs.gradients.Explain, request)
    assert (found.code, found.reason) == ("FAILED_PRECONDITION", "NOT_APPLICABLE")
    assert "is of small, and not of digits" in found.text


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two front-ends and two tokens, each with room for two directions that expire after some seconds."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text(TOKENS.format(**{name: hashlib.sha256(name.encode()).hexdigest() for name in ("ann", "bob")}))
    limits = "[limits]\nmax_directions = 2\nmax_direction_bytes = 6000\ndirection_seconds = 20\n"
    config = f'[server]\ntoken_file = "{path}"\nfront_ends = 2\n{limits}{MODELS}'
    with Server(config, "--workers", "1") as server:
        assert server.address
        yield server


def of(name: str) -> dict[str, Any]:
    return {"metadata": [("authorization", f"Bearer {name}")]}


def fresh_channel(server: Server) -> grpc.Channel:
    """A connection of its own, which any of the front-ends may take."""
    return grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])


def test_directions_belong_to_a_token_on_all_front_ends_until_they_expire(guarded: Server) -> None:
    with fresh_channel(guarded) as channel:
        gradients = Stubs.of(channel).gradients
        gradients.Concepts(asked(keep_as="one"), **of("ann"))
        begun = time.monotonic()
        gradients.Concepts(asked(keep_as="two", model="digits"), **of("ann"))
        found = failed(gradients.Concepts, asked(keep_as="three"), **of("ann"))
        assert (found.code, found.reason) == ("FAILED_PRECONDITION", "NO_ROOM_FOR_DIRECTION")
        assert "2 directions are kept, and at most 2 may be" in found.text
        gradients.Concepts(asked(keep_as="two", model="digits"), **of("ann"))  # In place of the one of that name.
    explain = explain_pb2.ExplainRequest(
        model="small", image=CONCEPT[0], targets=[{"direction": {"name": "one"}}], methods=methods(gradient={})
    )
    texts = set()
    for _ in range(8):
        with fresh_channel(guarded) as channel:
            gradients, service = Stubs.of(channel).gradients, concepts_pb2_grpc.DirectionServiceStub(channel)
            assert names(service, **of("ann")) == ["one", "two"]
            assert names(service, **of("bob")) == []
            assert gradients.Explain(explain, **of("ann")).explanations[0].target_name == "one in features"
            texts.add(failed(gradients.Explain, explain, **of("bob")).text)
            missing = concepts_pb2.DeleteDirectionRequest(name="one")
            texts.add(failed(service.DeleteDirection, missing, **of("bob")).text)
    assert texts == {"there is no direction 'one'; none is kept"}
    ports = {line for line in guarded.log().splitlines() if "Explain" in line}
    assert ports
    with fresh_channel(guarded) as channel:
        service = concepts_pb2_grpc.DirectionServiceStub(channel)
        service.DeleteDirection(concepts_pb2.DeleteDirectionRequest(name="two"), **of("ann"))
        assert names(service, **of("ann")) == ["one"]
        time.sleep(max(0.0, 20.5 - (time.monotonic() - begun)))
        found = failed(Stubs.of(channel).gradients.Explain, explain, **of("ann"))
        assert (found.code, found.reason) == ("NOT_FOUND", "UNKNOWN_DIRECTION")
        assert found.text == "there is no direction 'one'; none is kept"
        assert names(service, **of("ann")) == []


def test_the_bytes_of_directions_have_a_bound(guarded: Server) -> None:
    with fresh_channel(guarded) as channel:
        gradients = Stubs.of(channel).gradients
        gradients.Concepts(asked(keep_as="large"), **of("bob"))  # 5120 bytes of 6000.
        found = failed(gradients.Concepts, asked(keep_as="other"), **of("bob"))
        assert (found.code, found.reason) == ("FAILED_PRECONDITION", "NO_ROOM_FOR_DIRECTION")
        assert "other needs 5120 bytes beside 5120 that are kept, and at most 6000 may be" in found.text
        assert names(concepts_pb2_grpc.DirectionServiceStub(channel), **of("bob")) == ["large"]
