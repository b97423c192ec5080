"""Trust through a real server: judgements, curves, what they cost, and warnings of methods that were tried."""

import time
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from serving import Stubs, methods, picture
from zoo import prepared

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2
from gradserve_server.api.errors import RequestError
from gradserve_server.api.maps import trust
from gradserve_server.api.request import CallContext
from gradserve_server.api.rpcs import explain
from gradserve_server.config import LimitSettings
from gradserve_server.methods.explain import Explained
from gradserve_server.methods.targets import Contrast, Target
from gradserve_server.models.card import ModelCard
from gradserve_server.models.served import ServedModels
from gradserve_server.pool.wire import Outcome

IMAGE = picture(0, 64, 64)
SMALL = {"model": "small", "image": IMAGE, "preprocess": pb.PREPROCESS_AS_IS}
EITHER = pb.Contrast(
    terms=[
        pb.WeightedTarget(target=pb.Target(class_index=3), weight=1),
        pb.WeightedTarget(target=pb.Target(class_index=7), weight=-1),
    ]
)


def ask(stubs: Stubs, *targets: Any, **fields: Any) -> Any:
    fields = {"methods": methods(grad_cam={}), "trust": True, **fields}
    request = explain_pb2.ExplainRequest(**{**SMALL, "targets": targets, **fields})
    return stubs.gradients.Explain(request, timeout=120)


def test_each_map_has_a_judgement_with_a_sentence(stubs: Stubs) -> None:
    both = methods(grad_cam={}, gradient={})
    reply = ask(stubs, pb.Target(class_index=3), pb.Target(contrast=EITHER), methods=both)
    for each in reply.explanations:
        assert each.HasField("trust")
        assert not each.trust.HasField("curves")
        assert -1 <= each.trust.agreement <= 1
        assert 0 < each.trust.chance_p <= 1
        assert each.trust.verdict != explain_pb2.TRUST_VERDICT_UNSPECIFIED
        assert "chance" in each.trust.sentence or "middle" in each.trust.sentence
    again = ask(stubs, pb.Target(class_index=3), pb.Target(contrast=EITHER), methods=both)
    assert [each.trust.verdict for each in again.explanations] == [each.trust.verdict for each in reply.explanations]
    assert again.provenance.rows == 4 + 50, "the trial of the methods was made once"


def test_the_first_request_of_a_method_makes_the_trial(stubs: Stubs) -> None:
    """By parameters that no other test has; the call's deadline is far."""
    own = methods(smooth_grad={"samples": 2, "noise": 0.1234})
    refused = {"methods": [*own, *methods(grad_cam={"layer": "nothing"})]}
    with pytest.raises(grpc.RpcError, match="nothing"):
        ask(stubs, pb.Target(class_index=3), **refused)
    rows = [ask(stubs, pb.Target(class_index=3), methods=own).provenance.rows for _ in range(2)]
    assert rows == [3 + 50 + 4 * (1 + 2 * 3), 3 + 50]


def test_maps_are_the_same_with_and_without(stubs: Stubs) -> None:
    options = pb.RequestOptions(alone=True)
    judged, plain = (ask(stubs, trust=trust, options=options).explanations[0] for trust in (True, False))
    assert judged.raw.data == plain.raw.data
    assert not plain.HasField("trust")


def test_curves_imply_trust(stubs: Stubs) -> None:
    ask(stubs)
    reply = ask(stubs, trust=False, curves=True)
    curves = reply.explanations[0].trust.curves
    assert (len(curves.insertion), len(curves.deletion)) == (15, 15)
    assert curves.insertion_area == pytest.approx(np.trapezoid(curves.insertion) / 14)
    assert curves.deletion_area == pytest.approx(np.trapezoid(curves.deletion) / 14)
    assert all(0 <= value <= 1 for value in (*curves.insertion, *curves.deletion))
    assert reply.provenance.rows == 1 + 50 + 29


@pytest.mark.parametrize("size", [(8, 8), (3, 5)])
def test_small_pictures_and_units_that_never_fire(stubs: Stubs, size: tuple[int, int]) -> None:
    fields = {"model": "digits", "preprocess": pb.PREPROCESS_MODEL_DEFAULT, "image": picture(1, *size)}
    reply = ask(
        stubs,
        *(pb.Target(unit=pb.Unit(layer="2", channel=i)) for i in range(4)),
        **fields,
        methods=methods(gradient={}),
    )
    for each in reply.explanations:
        assert np.isfinite([each.trust.agreement, each.trust.chance_p, each.trust.centre_agreement]).all()
        assert each.trust.sentence


# The first request of a method, and what is remembered


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """A card whose trials nobody has made."""
    monkeypatch.setattr(trust, "TRIALS", trust.KnownTrials())
    return prepared("resnet18").card


def bound(card: ModelCard, *, remaining: float | None = None, **fields: Any) -> Any:
    pixels = np.zeros((card.height, card.width, 3), np.uint8)
    image = pb.Image(tensor=pb.Tensor(shape=pixels.shape, dtype=pb.DTYPE_UINT8, data=pixels.tobytes()))
    request = explain_pb2.ExplainRequest(image=image, preprocess=pb.PREPROCESS_AS_IS, **fields)
    at = CallContext("id", time.monotonic(), remaining, ServedModels([card]), LimitSettings())
    return request, explain.bind(request, at)


def accepted(card: ModelCard, *, fits: bool = True, **fields: Any) -> Any:
    """The request while it runs, with its trial: a context manager; `fits`: whether there is time for that."""
    return explain.with_trial(*bound(card, **fields), lambda task: fits)


def answered(call: Any, sensitivity: float | None) -> Explained:
    values = np.ones((2, 2), np.float32)
    target = call.target if isinstance(call.target, Contrast) else Target(label=3)
    return Explained(values, 1.0, target, None, None, 1, 1, (), None, sensitivity)


def warnings(card: ModelCard, *, sensitivity: float | None = None, **fields: Any) -> list[str]:
    """Of the first map of a request whose trial finds that."""
    request, made = bound(card, **fields)
    with explain.with_trial(request, made, lambda task: True) as tried:
        assert sensitivity is None or tried.task.arguments.trial is not None
        results = [answered(call, sensitivity) for call in tried.task.arguments.calls]
        reply = explain.reply(request, tried, Outcome("id", results))
    return [text.partition(":")[0] for text in reply.explanations[0].warnings]


def cost(card: ModelCard, **fields: Any) -> float:
    """What an accepted request costs while no other one runs."""
    with accepted(card, **fields) as made:
        return float(made.task.cost)


def test_the_price_has_the_rows_of_the_judgement_and_of_the_first_trial(card: ModelCard) -> None:
    asked = {"methods": methods(gradient={})}
    plain = bound(card, **asked)[1].task
    judged = bound(card, trust=True, **asked)[1].task
    assert judged.cost - plain.cost == pytest.approx(card.gflop * 50), "a trial is no reason to refuse a request"
    with accepted(card, trust=True, **asked) as first:
        assert first.task.cost - judged.cost == pytest.approx(card.gflop * (4 + 8 * 3))
        assert first.task.least_cost == judged.cost
        assert cost(card, trust=True, **asked) == judged.cost, "another is at it"
    assert cost(card, trust=True, **asked) == first.task.cost, "it ended without having found anything"
    curves = bound(card, curves=True, **asked)[1].task.cost
    assert curves - plain.cost == pytest.approx(card.gflop * (50 + 29))


def test_a_trial_is_left_out_where_it_would_be_too_late_or_too_much(card: ModelCard) -> None:
    asked = {"methods": methods(gradient={}), "trust": True}
    with accepted(card, fits=False, **asked) as made:
        assert made.task.arguments.trial is None
        with accepted(card, **asked) as other:
            assert other.task.arguments.trial is not None, "it was not claimed"
    targets = [pb.Target(class_index=i) for i in range(9)]
    for samples, has_room in ((1800, True), (1813, False)):
        rows = len(targets) * (samples + 1) + 50
        of_trial = 4 * (1 + 2 * 9)  # It draws 8 samples, beside the picture itself.
        assert (rows + of_trial <= explain.MAX_REQUEST_ROWS) == has_room
        assert rows <= explain.MAX_REQUEST_ROWS
        long = {"methods": methods(smooth_grad={"samples": samples}), "targets": targets, "trust": True}
        with accepted(card, **long) as made:
            assert (made.task.arguments.trial is not None) == has_room


def test_rows_of_judgements_are_those_that_were_computed(card: ModelCard) -> None:
    with accepted(card, trust=True, methods=methods(gradient={})) as made:
        results = [answered(call, None) for call in made.task.arguments.calls]
    for rows, trust_rows in ((1 + 50 + 12, 62), (1 + 50 + 4, 54), (1, 0)):
        assert explain.rows_by_method(made, Outcome("id", results, rows=rows)) == {"gradient": 1, "trust": trust_rows}
    plain = bound(card, methods=methods(gradient={}))[1]
    assert explain.rows_by_method(plain, Outcome("id", results, rows=1)) == {"gradient": 1}


def test_replies_of_many_maps_are_made_in_a_thread(card: ModelCard) -> None:
    """Of the smallest maps too, since each takes about 40 us beside its pixels."""
    small, targets = replace(card, height=8, width=8), [pb.Target(class_index=i) for i in range(16)]
    assert bound(small, methods=methods(gradient={}), targets=targets)[1].small_reply
    assert not bound(small, methods=methods(gradient={}, deconvnet={}), targets=targets[:9])[1].small_reply


def test_pictures_are_cut_into_segments_in_few_ways(card: ModelCard) -> None:
    def asked(*compactness: float) -> list[explain_pb2.ExplainMethod]:
        return [each for value in compactness for each in methods(lime={"compactness": value}, kernel_shap={})]

    assert bound(card, methods=asked(1, 2, 3))[1].methods == ("lime", "kernel_shap")
    with pytest.raises(RequestError, match="cut the picture in 5 different ways") as refused:
        bound(card, methods=asked(1, 2, 3, 4))
    assert "at most 4 pairs of segments and compactness" in str(refused.value)


def test_methods_of_values_alone_and_units_are_not_tried(card: ModelCard) -> None:
    unit = pb.Target(unit=pb.Unit(layer="layer1", channel=1))
    for fields in (
        {"methods": methods(occlusion={})},
        {"methods": methods(gradient={}), "targets": [unit]},
        {"methods": methods(gradient={}), "trust": False},
        {"methods": methods(gradient={}), "options": pb.RequestOptions(time_budget=Duration(seconds=9))},
    ):
        with accepted(card, **{"trust": True, **fields}) as made:
            assert made.task.arguments.trial is None
    both = methods(gradient={}, guided_backprop={})
    with accepted(card, trust=True, methods=both, targets=[pb.Target(rank=1), unit]) as made:
        assert made.task.arguments.trial.calls == (0, 2)
        assert made.task.arguments.trial.layer == "fc"


def test_every_later_map_of_an_insensitive_method_is_warned_of(card: ModelCard) -> None:
    asked = {"methods": methods(guided_backprop={})}
    assert "INSENSITIVE" not in warnings(card, **asked), "nothing is known yet"
    assert "INSENSITIVE" in warnings(card, **asked, trust=True, sensitivity=0.97)
    assert "INSENSITIVE" in warnings(card, **asked), "also without trust"
    assert "INSENSITIVE" not in warnings(card, methods=methods(guided_backprop={"reduce": "REDUCE_MAX"}))
    assert "INSENSITIVE" not in warnings(replace(card, digest="other weights"), **asked)
    with accepted(card, trust=True, **asked) as made:
        assert made.task.arguments.trial is None, "it is known"


def test_contrasts_are_tried_apart(card: ModelCard) -> None:
    asked, contrast = {"methods": methods(lrp={})}, [pb.Target(contrast=EITHER)]
    assert "INSENSITIVE" in warnings(card, **asked, trust=True, sensitivity=0.92)
    assert "INSENSITIVE" not in warnings(card, **asked, targets=contrast)
    assert "INSENSITIVE" not in warnings(card, **asked, targets=contrast, trust=True, sensitivity=-0.2)
    guided = {"methods": methods(guided_backprop={}), "targets": contrast}
    assert "INSENSITIVE" in warnings(card, **guided, trust=True, sensitivity=0.99)


def test_a_sensitive_method_is_not_warned_of(card: ModelCard) -> None:
    assert "INSENSITIVE" not in warnings(card, methods=methods(gradient={}), trust=True, sensitivity=0.54)


def test_a_network_without_a_last_linear_layer_was_not_tried(card: ModelCard) -> None:
    other = replace(card, layers=tuple(layer for layer in card.layers if layer.name != "fc"))
    assert other.logits_layer == ""
    with accepted(other, trust=True, methods=methods(gradient={})) as made:
        assert made.task.arguments.trial is None
    (call,) = made.task.arguments.calls
    judgement = trust.Judgement(0.5, 0.01, 0.1, "beats_both", "beats both")
    (text,) = trust.trial_warnings(call, replace(answered(call, None), judgement=judgement), other)
    assert text.startswith("UNTRIED: ")
    assert not trust.trial_warnings(call, answered(call, None), other), "nobody asked"


def test_a_trial_that_was_lost_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    known, key = trust.KnownTrials(), ("digest", "gradient", "class", ())
    assert known.is_wanted(key, 100.0, claim=True)
    assert not known.is_wanted(key, 101.0, claim=True)
    assert known.is_wanted(key, 100.0 + trust.CLAIM_SECONDS, claim=True)
    known.put(key, 0.2)
    assert not known.is_wanted(key, 1e9, claim=True)
    for i in range(trust.MAX_KNOWN):
        known.put(("digest", "gradient", "class", (("i", i),)), 0.1)
    assert known.get(key) is None, "the oldest is forgotten"
