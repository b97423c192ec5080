"""Maximize and Stylize through a real server: progress, cancelling, time, and whatever is wrong with a request."""

import io
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from serving import PATIENCE, Refused, Server, Stubs, picture, refused

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import maximize_pb2 as mx
from gradserve.v1 import predict_pb2, progress_pb2
from gradserve.v1 import stylize_pb2 as st

PHOTO, STYLE = picture(0, 60, 80), picture(1, 50, 50)
LONG = 4000
FEATURES = "features.3"


def goal(**kind: Any) -> mx.Goal:
    return mx.Goal(summands=[mx.Summand(**kind)])


CLASS = goal(target=pb.Target(class_index=3))


def maximize_request(**fields: Any) -> mx.MaximizeRequest:
    settings = {"steps": 4, **fields.pop("settings", {})}
    return mx.MaximizeRequest(**{"model": "small", "goals": [CLASS], "settings": settings, **fields})


def stylize_request(**fields: Any) -> st.StylizeRequest:
    settings = {"steps": 4, **fields.pop("settings", {})}
    given = {"model": "small", "content": PHOTO, "styles": [st.Style(image=STYLE)], "settings": settings}
    return st.StylizeRequest(**{**given, **fields})


def maximize(stubs: Stubs, **fields: Any) -> mx.MaximizeResponse:
    return stubs.gradients.Maximize(maximize_request(**fields), timeout=PATIENCE)


def stylize(stubs: Stubs, **fields: Any) -> st.StylizeResponse:
    return stubs.gradients.Stylize(stylize_request(**fields), timeout=PATIENCE)


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_maximize_answers_with_everything(stubs: Stubs) -> None:
    goals = [CLASS, goal(layer=FEATURES), goal(target=pb.Target(unit=pb.Unit(layer=FEATURES, channel=5)), weight=-2)]
    reply = maximize(stubs, goals=goals, size=progress_pb2.Size(width=72, height=64), snapshots=[0, 2, 4])
    assert [each.name for each in reply.images] == ["tiger shark", FEATURES, f"- 2 {FEATURES}:5"]
    assert (reply.preset, reply.asked, reply.done, reply.completed_fraction) == (mx.MAXIMIZE_PRESET_STRONG, 4, 4, 1)
    assert reply.settings.steps == 4
    assert reply.settings.jitter == 0.125
    assert reply.settings.start == mx.START_NOISE
    assert reply.provenance.rows == 3 * 4 + 2 * 3
    for each in reply.images:
        assert opened(each.png).shape == (64, 72, 3)
        assert {curve.name: len(curve.values) for curve in each.curves} == {"objective": 4, "total_variation": 4}
        assert [shot.step for shot in each.snapshots] == [0, 2, 4]
        assert each.snapshots[2].png == each.png
        assert len(each.top) == 5
    image = pb.Image(encoded=reply.images[0].png)
    asked = predict_pb2.PredictRequest(model="small", image=image, preprocess=pb.PREPROCESS_AS_IS, top_k=1000)
    logits = {score.class_index: score.logit for score in stubs.gradients.Predict(asked, timeout=PATIENCE).top}
    assert reply.images[0].value == pytest.approx(logits[3], abs=1e-4)


def test_the_same_request_gives_the_same_picture(stubs: Stubs) -> None:
    first, second = (maximize(stubs, options=pb.RequestOptions(seed=3)) for _ in range(2))
    other = maximize(stubs, options=pb.RequestOptions(seed=4))
    assert np.abs(opened(first.images[0].png).astype(int) - opened(second.images[0].png)).max() <= 2
    assert np.abs(opened(first.images[0].png).astype(int) - opened(other.images[0].png)).max() > 2


def test_a_photo_is_dreamt_of_in_octaves(stubs: Stubs) -> None:
    settings = {"steps": 2, "octaves": 2, "octave_scale": 1.2}
    reply = maximize(stubs, goals=[goal(layer=FEATURES)], image=picture(0, 60, 80), settings=settings)
    assert reply.preset == mx.MAXIMIZE_PRESET_DREAM
    assert (reply.asked, reply.done) == (4, 4)
    assert opened(reply.images[0].png).shape == (60, 80, 3)
    assert reply.images[0].curves[0].values[3] > reply.images[0].curves[0].values[2]


def test_the_lecture_returns_what_was_scored_and_its_display(stubs: Stubs) -> None:
    reply = maximize(stubs, preset=mx.MAXIMIZE_PRESET_LECTURE)
    scored, shown = opened(reply.images[0].png) / 255, opened(reply.images[0].display) / 255
    expected = (0.5 + 0.1 * (scored - scored.mean()) / scored.std(ddof=1)).clip(0, 1)
    assert np.abs(shown - expected).max() < 1 / 255


def test_stylize_answers_with_everything(stubs: Stubs) -> None:
    reply = stylize(stubs, size=progress_pb2.Size(longer=72), snapshots=[0], settings={"steps": 6, "coarse_steps": 2})
    assert opened(reply.png).shape == (54, 72, 3)
    assert reply.settings.rate == 0.04
    assert reply.settings.start == st.STYLIZE_START_CONTENT
    assert reply.style_layers[0].layer == "pixels"
    assert len(reply.style_layers) >= 4
    assert len(reply.content_layers) == 1
    assert {curve.name: len(curve.values) for curve in reply.curves} == dict.fromkeys(
        ("style", "content", "total_variation"), 8
    )
    assert {part.name for part in reply.losses} == {"style", "content", "total_variation"}
    assert reply.snapshots[0].step == 0
    assert (reply.asked, reply.done) == (8, 8)


def test_lbfgs_textures_and_reconstructions(stubs: Stubs) -> None:
    texture = st.StylizeRequest(model="small", styles=[st.Style(image=STYLE)], settings={"steps": 2})
    reply = stubs.gradients.Stylize(texture, timeout=PATIENCE)
    assert {part.name for part in reply.losses} == {"style", "total_variation"}
    assert not reply.content_layers
    reply = stylize(stubs, styles=[], settings={"steps": 2, "optimizer": progress_pb2.OPTIMIZER_LBFGS})
    assert {part.name for part in reply.losses} == {"content", "total_variation"}
    assert reply.settings.rate == 1
    assert reply.settings.start == st.STYLIZE_START_NOISE


@pytest.mark.parametrize("what", ["maximize", "stylize"])
def test_progress_comes_at_a_bounded_rate_and_the_result_last(stubs: Stubs, what: str) -> None:
    begun = time.monotonic()
    settings = {"steps": 60}
    if what == "maximize":
        stream = stubs.gradients.StreamMaximize(
            maximize_request(settings=settings, goals=[CLASS] * 2), timeout=PATIENCE
        )
    else:
        stream = stubs.gradients.StreamStylize(stylize_request(settings=settings), timeout=PATIENCE)
    events = list(stream)
    reports = [event.progress for event in events[:-1]]
    assert events[-1].WhichOneof("event") == "result"
    assert all(event.WhichOneof("event") == "progress" for event in events[:-1])
    assert 1 <= len(reports) <= (time.monotonic() - begun) / 0.25 + 1
    assert [report.step for report in reports] == sorted({report.step for report in reports})
    assert {report.steps for report in reports} == {60}
    assert reports[0].losses[0].name == ("objective" if what == "maximize" else "style")
    assert len(reports[0].previews) == (2 if what == "maximize" else 1)
    assert max(opened(reports[0].previews[0]).shape) <= 160


@pytest.mark.parametrize("what", ["maximize", "stylize"])
def test_cancelling_frees_the_device(server: Server, stubs: Stubs, what: str) -> None:
    # There is no deadline, because the server stops a job early that it cannot finish in time.
    if what == "maximize":
        stream = stubs.gradients.StreamMaximize(maximize_request(settings={"steps": LONG}))
    else:
        stream = stubs.gradients.StreamStylize(stylize_request(settings={"steps": LONG}))
    assert next(stream).progress.steps == LONG
    assert server.metric("gradserve_jobs_in_flight", method=what) == 1
    stream.cancel()
    end = time.monotonic() + 60
    while server.metric("gradserve_jobs_in_flight", method=what) or server.metric("gradserve_cost_outstanding"):
        assert time.monotonic() < end
    passes = -1.0
    while passes != (passes := server.metric("gradserve_step_rows_count", model="small")):
        assert time.monotonic() < end, "passes go on"
        time.sleep(1)  # The pass under way ends, and the workers' next statistics come.


@pytest.mark.parametrize("ask", [maximize, stylize])
def test_when_time_is_up_the_image_so_far_comes_if_allowed(stubs: Stubs, ask: Callable[..., Any]) -> None:
    options = pb.RequestOptions(allow_partial=True)
    options.time_budget.FromMilliseconds(1500)
    reply = ask(stubs, settings={"steps": LONG}, options=options)
    assert 0 < reply.done < reply.asked == LONG
    assert f"TIME_UP: a partial answer, since time ran out after {reply.done} of {LONG} steps" in reply.warnings
    assert reply.completed_fraction == pytest.approx(reply.done / LONG)
    assert any(warning.startswith("NOT_MEASURED") for warning in reply.warnings)
    made = reply.images[0] if ask is maximize else reply
    assert opened(made.png).ndim == 3
    assert len(made.curves[0].values) == reply.done
    options.allow_partial = False
    with pytest.raises(grpc.RpcError) as caught:
        ask(stubs, settings={"steps": LONG}, options=options)
    assert refused(caught.value).code == "DEADLINE_EXCEEDED"
    assert caught.value.details().endswith("allow more time, or allow_partial")


def wrong(ask: Callable[..., Any], stubs: Stubs, **fields: Any) -> Refused:
    with pytest.raises(grpc.RpcError) as caught:
        ask(stubs, **fields)
    return refused(caught.value)


def unit(layer: str, channel: int, **place: int) -> mx.Goal:
    return goal(target=pb.Target(unit=pb.Unit(layer=layer, channel=channel, **place)))


MAXIMIZE_FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no goal": ({"goals": []}, "goals", "1 to 16, were 0"),
    "17 goals": ({"goals": [CLASS] * 17}, "goals", "1 to 16, were 17"),
    "an empty goal": ({"goals": [mx.Goal()]}, "goals[0].summands", "1 to 64, were 0"),
    "an empty summand": ({"goals": [goal()]}, "goals[0].summands[0]", "none of target, layer, direction and logits"),
    "a rank without a picture": ({"goals": [goal(target=pb.Target(rank=1))]}, "goals[0].summands[0].target", "picture"),
    "a weight of 0": ({"goals": [goal(layer=FEATURES, weight=0)]}, "goals[0].summands[0].weight", "other than 0"),
    "an unknown class": (
        {"goals": [goal(target=pb.Target(class_index=1000))]},
        "goals[0].summands[0].target.class_index",
        "0 to 999",
    ),
    "a channel out of range": (
        {"goals": [unit(FEATURES, 24)]},
        "goals[0].summands[0].target.unit.channel",
        "from 0 to 23, was 24",
    ),
    "an unknown layer": ({"goals": [goal(layer="features.99")]}, "goals[0].summands[0].layer", "nearest: features.9"),
    "a short direction": (
        {"goals": [goal(direction=pb.Direction(layer=FEATURES, vector=[1.0]))]},
        "goals[0].summands[0].direction.vector",
        "24 numbers",
    ),
    "a direction of zeros": (
        {"goals": [goal(direction=pb.Direction(layer=FEATURES, vector=[0.0] * 24))]},
        "goals[0].summands[0].direction.vector",
        "not all of them 0",
    ),
    "a preset that is none": ({"preset": 77}, "preset", "one of MAXIMIZE_PRESET_"),
    "a dream of nothing": ({"preset": mx.MAXIMIZE_PRESET_DREAM}, "image", "is needed"),
    "a picture that is not used": (
        {"image": PHOTO, "settings": {"start": mx.START_GREY}},
        "settings.start",
        "IMAGE where a picture is given",
    ),
    "no steps": ({"settings": {"steps": 0}}, "settings.steps", "from 1 to 4096"),
    "too many steps in all": ({"settings": {"steps": 4000}, "goals": [CLASS] * 5}, "settings.steps", "16384"),
    "an optimizer of Stylize": (
        {"settings": {"optimizer": progress_pb2.OPTIMIZER_LBFGS}},
        "settings.optimizer",
        "one of adam, ascent, normalized_ascent",
    ),
    "a rate that is none": ({"settings": {"rate": float("nan")}}, "settings.rate", "a number above 0"),
    "too small": ({"size": progress_pb2.Size(longer=3)}, "size", "sides of at least 8 pixels, at most"),
    "too large": ({"size": progress_pb2.Size(longer=5000)}, "size", "1048576 pixels"),
    "two sizes": ({"size": progress_pb2.Size(longer=64, width=64)}, "size", "exclude each other"),
    "too small an octave": (
        {"settings": {"octaves": 9}, "image": PHOTO},
        "settings.octaves",
        "sides of at least 8 pixels, at most",
    ),
    "a late snapshot": ({"snapshots": [5]}, "snapshots", "from 0 to 4"),
}


@pytest.mark.parametrize("case", MAXIMIZE_FAULTS.values(), ids=MAXIMIZE_FAULTS.keys())
def test_what_is_wrong_with_maximize(stubs: Stubs, case: tuple[dict[str, Any], str, str]) -> None:
    fields, path, text = case
    found = wrong(maximize, stubs, **fields)
    assert found.code == "INVALID_ARGUMENT"
    assert list(found.violations) == [path]
    assert text in found.violations[path]


STYLIZE_FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "100 styles": ({"styles": [st.Style(image=STYLE)] * 100}, "styles", "at most 8, were 100"),
    "a style that is no picture": ({"styles": [st.Style()]}, "styles[0].image", "no picture"),
    "a style without weight": ({"styles": [st.Style(image=STYLE, weight=0)]}, "styles[0].weight", "above 0"),
    "nothing": ({"content": None, "styles": []}, "content", "is needed"),
    "weights of zero": ({"settings": {"style_weight": 0, "content_weight": 0}}, "settings", "nothing to optimise"),
    "a layer without spatial extent": (
        {"style_layers": [st.LayerWeight(layer="classifier.1")]},
        "style_layers[0].layer",
        "no spatial extent",
    ),
    "an unknown layer": ({"content_layers": [st.LayerWeight(layer="x")]}, "content_layers[0].layer", "no layer 'x'"),
    "a layer twice": ({"style_layers": [st.LayerWeight(layer=FEATURES)] * 2}, "style_layers", "each layer once"),
    "pixels alone": (
        {"style_layers": [st.LayerWeight(layer="pixels")], "settings": {"content_weight": 0}},
        "style_layers",
        "at least one layer",
    ),
    "an optimizer of Maximize": (
        {"settings": {"optimizer": progress_pb2.OPTIMIZER_ASCENT}},
        "settings.optimizer",
        "one of adam, lbfgs",
    ),
    "a start that is not there": (
        {"content": None, "settings": {"start": st.STYLIZE_START_CONTENT}},
        "settings.start",
        "NOISE",
    ),
    "too small": ({"size": progress_pb2.Size(longer=9)}, "size", "sides of at least 8 pixels, at most"),
    "too small a half": ({"size": progress_pb2.Size(width=10, height=10), "settings": {"coarse_steps": 2}}, "", ""),
}


@pytest.mark.parametrize("case", STYLIZE_FAULTS.values(), ids=STYLIZE_FAULTS.keys())
def test_what_is_wrong_with_stylize(stubs: Stubs, case: tuple[dict[str, Any], str, str]) -> None:
    fields, path, text = case
    found = wrong(stylize, stubs, **fields)
    assert found.code == "INVALID_ARGUMENT"
    assert not path or list(found.violations) == [path]
    assert any(text in said for said in found.violations.values())


def test_everything_is_told_at_once(stubs: Stubs) -> None:
    found = wrong(maximize, stubs, goals=[unit(FEATURES, 99)], settings={"rate": -1, "steps": 0}, snapshots=[9999] * 40)
    assert set(found.violations) == {
        "goals[0].summands[0].target.unit.channel",
        "settings.rate",
        "settings.steps",
        "snapshots",
    }


def test_models_without_maps_or_with_one_size(stubs: Stubs) -> None:
    found = wrong(stylize, stubs, model="linear", size=progress_pb2.Size(width=12, height=8), settings={"pad": 0})
    assert found.code == "FAILED_PRECONDITION"
    assert "no layer of it has spatial extent" in found.text
    found = wrong(maximize, stubs, model="linear", size=progress_pb2.Size(longer=20))
    assert found.violations["size"] == "must be 12x8, the only one that linear accepts, was 20x13"
    found = wrong(maximize, stubs, model="linear", goals=[CLASS], settings={"pad": 0.5})
    assert "octaves must be 1 and pad 0" in found.violations["settings"]
    reply = maximize(stubs, model="linear", settings={"steps": 30})
    assert reply.images[0].top[0].class_index == 3


def test_absurd_rates_give_a_picture_or_a_clear_error(stubs: Stubs) -> None:
    for ask, settings in ((maximize, {"rate": 1000.0}), (stylize, {"rate": 1000.0}), (stylize, {"style_weight": 1e9})):
        made = ask(stubs, settings=settings)
        assert made.done >= 1
        data = made.images[0].png if ask is maximize else made.png
        assert opened(data).ndim == 3
