"""Trials of methods: the last layer's weights permuted without touching the served network, and what comes of it."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor
from zoo import in_double, inputs, off, pictures, prepared

from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Part, Query
from gradserve_server.methods.explain import METHODS, ExplainArguments, explain
from gradserve_server.methods.explain.sanity import (
    MAX_CORRELATION,
    PICTURES,
    Trial,
    natural_pictures,
    rank_correlation,
    shuffled_correlation,
    trial_rows,
    tried_parameters,
)
from gradserve_server.models.permuted import permuted
from gradserve_server.models.prepared import Prepared

from .runs import call

NETWORKS = ["squeezenet1_1", "mobilenet_v2"]


def tried(model: Prepared, method: str, images: Tensor | None = None, *, contrast: bool = False) -> float:
    """What a trial of the method finds on these pictures, by default on those that a server takes."""
    parameters = tried_parameters(call(model, method).parameters)
    size = (model.card.height, model.card.width) if images is None else (images.shape[2], images.shape[3])
    images = natural_pictures(*size) if images is None else images
    layer, function = model.card.logits_layer, METHODS[method].function
    engine = Engine({"model": model})
    arguments = images, layer, function, parameters
    job = Job("job", "model", lambda job: shuffled_correlation(job, *arguments, contrast=contrast))
    engine.submit(job)
    (ended,) = [event for _ in iter(lambda: engine.idle, True) for event in engine.step() if isinstance(event, Ended)]
    assert ended.error is None
    rows = METHODS[method].rows(parameters, size, model.card)
    assert ended.job.rows == trial_rows(rows) * len(images) // PICTURES
    return float(ended.result)


@pytest.mark.parametrize("name", NETWORKS)
def test_permuted_rows_are_those_of_a_network_with_permuted_weights(name: str) -> None:
    model = in_double(name)
    x, layer = pictures(model, 2), model.card.logits_layer
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    parts = [Part(Query(x, logit(3), "image", permuted=layer), range(2))]
    (ours,) = differentiate(model, parts)
    assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())
    other = copy.deepcopy(model.network)
    place = model.place(layer).module
    for seed, value in enumerate(other.get_submodule(place).parameters()):
        order = torch.randperm(value.numel(), generator=torch.Generator().manual_seed(seed))
        value.data = value.flatten()[order].view(value.shape)
    images = x.clone().requires_grad_()
    logits = other((images - model.mean) / model.std)
    (grad,) = torch.autograd.grad(logits[:, 3].sum(), images)
    assert ours.logits is not None
    assert ours.image_grad is not None
    assert off(ours.logits, logits) < 1e-9
    assert off(ours.image_grad, grad) < 1e-9
    (plain,) = differentiate(model, [Part(Query(x, logit(3), "image"), range(2))])
    assert plain.logits is not None
    assert off(plain.logits, logits) > 0.1


def test_permuted_rows_share_no_pass_with_others() -> None:
    """Two jobs at once: one plain, one permuted; each has what it has alone."""
    model = prepared("squeezenet1_1")
    x = pictures(model, 1)

    def steps(layer: str) -> Any:
        return (yield Query(x, logit(3), "image", permuted=layer)).logits

    def logits(layers: list[str]) -> list[Tensor]:
        engine = Engine({"model": model})
        for i, layer in enumerate(layers):
            engine.submit(Job(str(i), "model", lambda job, layer=layer: steps(layer)))  # type: ignore[misc]
        ended = [each for _ in iter(lambda: engine.idle, True) for each in engine.step() if isinstance(each, Ended)]
        return [each.result for each in sorted(ended, key=lambda each: each.job.id)]

    layer = model.card.logits_layer
    both, alone = logits(["", layer, ""]), [*logits([""]), *logits([layer])]
    assert torch.equal(both[1], alone[1])
    assert off(both[0], alone[0]) < 1e-5
    assert off(both[2], alone[0]) < 1e-5


def test_nothing_of_a_permuted_pass_stays_in_memory_or_on_the_network() -> None:
    model = prepared("resnet18")
    layer = model.network.get_submodule(model.card.logits_layer)
    with permuted(model.network, model.card.logits_layer):
        assert len(layer._forward_hooks) == 1
    assert not layer._forward_hooks
    assert not model.network._forward_hooks


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("squeezenet1_1", "classifier.1"),
        ("mobilenet_v2", "classifier.1"),
        ("resnet18", "fc"),
        ("vit_b_32", "heads.head"),
        ("linear", "1"),
        ("trained-resnet20", "linear"),
    ],
)
def test_the_layer_of_the_logits_is_found(name: str, layer: str) -> None:
    assert prepared(name).card.logits_layer == layer


def test_two_layers_side_by_side_are_no_layer_of_the_logits() -> None:
    card = prepared("resnet18").card
    last = card.layer("fc")
    assert last is not None
    apart = replace(last, upstream=last.upstream & ~(1 << last.number), number=last.number + 1, name="other")
    two = replace(card, layers=(*card.layers, apart), upstream=card.upstream | 1 << apart.number)
    assert two.logits_layer == ""
    chained = replace(two, layers=(*card.layers, replace(apart, upstream=-1)))
    assert chained.logits_layer == "other", "one after the other is one"
    assert replace(card, positions=True).logits_layer == ""


def test_pictures_of_a_trial_are_always_the_same_and_vary() -> None:
    images = natural_pictures(64, 96)
    assert images.shape == (PICTURES, 3, 64, 96)
    assert (images.amin() >= 0, images.amax() <= 1) == (True, True)
    natural_pictures.cache_clear()
    assert torch.equal(images, natural_pictures(64, 96))
    assert all(off(images[i], images[j]) > 0.3 for i in range(PICTURES) for j in range(i))
    power = torch.fft.rfft2(images.mean(1) - images.mean((1, 2, 3))[:, None, None]).abs().square().mean(0)
    assert power[1:5, 1:5].mean() > 30 * power[16:20, 16:20].mean(), "much less in fine detail, as in photos"


def test_rank_correlation() -> None:
    values, ties = np.random.default_rng(0).random(500), np.random.default_rng(1).integers(0, 9, 500)
    assert rank_correlation(values, ties + values) == pytest.approx(spearmanr(values, ties + values).statistic)
    assert rank_correlation(values, ties) == pytest.approx(spearmanr(values, ties).statistic)
    assert rank_correlation(values, values**3) == pytest.approx(1)
    assert rank_correlation(values, -values) == pytest.approx(-1)
    assert rank_correlation(values, np.zeros(500)) == 0
    assert tried_parameters({"samples": 50, "noise": 0.2, "reduce": "sum"}) == {
        "samples": 8,
        "noise": 0.2,
        "reduce": "sum",
    }


def test_a_linear_model_is_wholly_changed_by_its_only_layer() -> None:
    assert abs(tried(prepared("linear"), "gradient")) < 0.4


def test_methods_that_pass_a_network_by_and_those_that_do_not() -> None:
    """The short form of the table of `tests.bench.trust`: fewer and smaller pictures, of one trained network."""
    model, _ = inputs("trained-mobilenet_v2")
    images = natural_pictures(128, 128)[:2]
    assert tried(model, "guided_backprop", images) > 0.9
    assert tried(model, "guided_backprop", images, contrast=True) > 0.9, "a contrast is no cure for guided maps"
    assert tried(model, "grad_cam", images) < MAX_CORRELATION
    assert tried(model, "lrp", images) > MAX_CORRELATION
    assert tried(model, "lrp", images, contrast=True) < MAX_CORRELATION, "its signs change"


def test_a_trial_is_run_with_the_judgement_of_a_request_and_counted() -> None:
    model = prepared("squeezenet1_1")
    calls = (call(model, "gradient"), call(model, "grad_cam"))
    trial = Trial(model.card.logits_layer, (64, 96), (1,))
    arguments = ExplainArguments(calls, trust=True, trial=trial)
    x = pictures(model, 1)
    engine = Engine({"model": model})
    engine.submit(Job("job", "model", lambda job: explain(job, x, arguments)))
    (ended,) = [each for _ in iter(lambda: engine.idle, True) for each in engine.step() if isinstance(each, Ended)]
    first, second = ended.result
    correlations = first.shuffled_correlation, second.shuffled_correlation
    assert correlations == (None, pytest.approx(tried(model, "grad_cam")))
    assert ended.job.rows == 1 + 2 + 50 + trial_rows(1)
