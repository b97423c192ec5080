"""Warnings: what kept an attack from a gradient, maps that do not add up, and answers that are partial."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import blind_networks
import numpy as np
import pytest
import torch
from torch import Tensor
from zoo import CPU, inputs

from gradserve_server.engine.job import MethodContext, TimeUp
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Answer
from gradserve_server.methods.attack import Ball, GoalSpec
from gradserve_server.methods.attack.input_transform import InputTransform
from gradserve_server.methods.explain.averages import integrated_gradients, smooth_grad
from gradserve_server.methods.explain.maps import Map
from gradserve_server.methods.image_run import Trajectory
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

from .attacks import attacked
from .runs import finished

SHARP = Ball("linf", 8 / 255)


def blind_model(name: str) -> Prepared:
    facts = {"height": blind_networks.SIDE, "width": blind_networks.SIDE, "resize": blind_networks.SIDE}
    facts |= {"mean": [0, 0, 0], "std": [1, 1, 1], "precisions": ["exact"]}
    spec = ModelSpec.model_validate({"name": name, "builder": f"blind_networks:{name}", **facts})
    return prepare(spec, CPU)


def hopeless(method: str, network: str, loss: str, **facts: object) -> list[str]:
    """The codes of the warnings of an attack on a picture that withstands every attack within the budget."""
    pixels, labels = blind_networks.pictures(1, 30)
    assert blind_networks.stands(pixels, labels, 8).all()
    x = pixels.permute(0, 3, 1, 2).float() / 255
    (found,) = attacked(blind_model(network), x, method, GoalSpec(int(labels[0]), loss=loss), SHARP, **facts)
    assert found.first_success is None
    return [text.split(":")[0] for text in found.warnings]


@pytest.mark.parametrize("method", ["fgsm", "pgd", "apgd"])
@pytest.mark.parametrize(
    ("network", "cross_entropy", "margin"),
    [
        ("sighted", [], []),
        ("loud", ["SATURATED"], []),
        ("probabilities", ["SATURATED"], []),
        ("underflown", ["ZERO_GRADIENT"], ["ZERO_GRADIENT"]),
        ("rounded", ["ZERO_GRADIENT"], ["ZERO_GRADIENT"]),
    ],
)
def test_an_attack_says_that_it_had_no_gradient_to_follow(
    method: str, network: str, cross_entropy: list[str], margin: list[str]
) -> None:
    assert hopeless(method, network, "cross_entropy") == cross_entropy
    assert hopeless(method, network, "margin") == margin


def test_a_targeted_cross_entropy_is_not_blinded_by_a_sure_softmax() -> None:
    pixels, labels = blind_networks.pictures(1, 30)
    x = pixels.permute(0, 3, 1, 2).float() / 255
    (found,) = attacked(blind_model("loud"), x, "pgd", GoalSpec(int(labels[0]), target=1), SHARP)
    assert found.first_success is None
    assert not found.warnings


@pytest.mark.parametrize(
    ("network", "cross_entropy", "margin"),
    [
        ("sighted", [], []),
        ("loud", ["FLAT_LOSS"], []),
        ("probabilities", ["FLAT_LOSS"], []),
        ("underflown", ["FLAT_LOSS"], ["FLAT_LOSS"]),
        ("rounded", [], []),
        ("closed", [], []),
    ],
)
def test_a_search_says_that_all_scores_were_the_same(network: str, cross_entropy: list[str], margin: list[str]) -> None:
    assert hopeless("square", network, "cross_entropy", queries=60) == cross_entropy
    assert hopeless("square", network, "margin", queries=60) == margin


def test_a_budget_that_allows_nothing_is_no_obstacle_to_a_search() -> None:
    pixels, labels = blind_networks.pictures(1, 30)
    x = pixels.permute(0, 3, 1, 2).float() / 255
    goal_spec = GoalSpec(int(labels[0]), loss="margin")
    (found,) = attacked(blind_model("sighted"), x, "square", goal_spec, Ball("linf", 0.0), queries=20)
    assert not found.warnings


def test_one_picture_seen_through_several_draws_is_no_flat_search() -> None:
    pixels, labels = blind_networks.pictures(1, 30)
    x = pixels.permute(0, 3, 1, 2).float() / 255
    transform = InputTransform(defence="noise", parameters={"std": 0.01})
    facts = {"kind": "brightness", "severity": 1, "transform": transform, "adaptive": True}
    (found,) = attacked(
        blind_model("sighted"), x, "corruption", GoalSpec(int(labels[0]), loss="margin"), Ball(), **facts
    )
    assert found.queries > 1
    assert not found.warnings


def test_starts_without_a_gradient_beside_others_are_told_apart() -> None:
    """At random starts, on about half of which the network is dead."""

    class Half(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = x[:, 1:].mean((1, 2, 3))  # No step moves the pixel below.
            alive = (x[:, 0, 0, 0] > 0.5).to(x)[:, None]
            return torch.stack([1 + bright, bright * 0.5], 1) * alive + (1 - alive) * torch.tensor([1.0, 0.0])

    quiet = blind_model("sighted")
    model = replace(quiet, network=Half())
    x = torch.full((1, 3, blind_networks.SIDE, blind_networks.SIDE), 128 / 255)
    (found,) = attacked(model, x, "pgd", GoalSpec(0, loss="margin"), SHARP, restarts=12)
    assert [text.split(":")[0] for text in found.warnings] == ["FEWER_GRADIENTS"]


@pytest.mark.parametrize("loss", ["cross_entropy", "dlr", "margin"])
def test_no_advice_to_do_what_was_done(loss: str) -> None:
    pixels, labels = blind_networks.pictures(1, 30)
    x = pixels.permute(0, 3, 1, 2).float() / 255
    for method, network, facts in (
        ("pgd", "rounded", {}),
        ("pgd", "loud", {}),
        ("square", "underflown", {"queries": 60}),
    ):
        (found,) = attacked(blind_model(network), x, method, GoalSpec(int(labels[0]), loss=loss), SHARP, **facts)
        advised = any("try loss margin" in text for text in found.warnings)
        assert not (advised and loss == "margin")
        assert advised or loss == "margin" or network == "loud"


def summed(network: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> tuple[float, float]:
    """Integrated gradients from black by plain torch: the sum of the attributions, and the difference."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(x)
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        at = ((node + 1) / 2 * x).requires_grad_()
        total += weight / 2 * torch.autograd.grad(network(at).sum(), at)[0]
    with torch.no_grad():
        difference = (network(x) - network(torch.zeros_like(x))).item()
    return (x * total).sum().item(), difference


def integrated(network: Callable[[Tensor], Tensor], x: Tensor, **facts: object) -> tuple[Map, list[str]]:
    """Integrated gradients with their warnings."""
    run = MethodContext()
    return finished(integrated_gradients(x, logit(0), run, **facts), network), run.warnings


def test_a_gap_beyond_a_twentieth_of_the_difference_warns_with_its_figures() -> None:
    model, x = inputs("squeezenet1_1")
    told = {}
    for steps in (2, 4, 8, 100):
        network = lambda images: model(images)[:, 3]  # noqa: E731
        total, difference = summed(network, x, steps)
        share = abs(total - difference) / abs(difference)
        found, warnings = integrated(network, x, steps=steps)
        assert found.completeness_gap == pytest.approx(total - difference, abs=1e-4)
        told[share] = warnings
        assert bool(warnings) == (share > 0.05), share
        for text in warnings:
            assert text.startswith("INCOMPLETE")
            assert f"{share:.1%} of the difference; take more than {steps} steps" in text
    assert {bool(warnings) for warnings in told.values()} == {True, False}


def mean(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


def bump(images: Tensor) -> Tensor:
    """10 at a mean of 0.45, nothing from 0.25 and 0.65 on: black and white have the same value."""
    return 10 * (1 - 5 * (mean(images) - 0.45).abs()).relu()


def offset(images: Tensor) -> Tensor:
    """Large values that differ by little."""
    return 1000 + 1e-3 * mean(images)


def test_where_the_difference_is_near_zero_the_gap_is_compared_with_the_range() -> None:
    white = torch.ones(1, 3, 6, 6)
    total, difference = summed(bump, white, 3)
    assert abs(difference) < 1e-6
    assert abs(total) > 1
    _, (text,) = integrated(bump, white, steps=3)
    assert text.startswith("INCOMPLETE")
    assert "of the range" in text
    parabola = lambda images: 10 * mean(images) * (1 - mean(images))  # noqa: E731  exact with two points
    for network in (parabola, offset, lambda images: 0 * mean(images)):
        assert not integrated(network, white, steps=4)[1]


def test_no_advice_beyond_the_most_steps() -> None:
    wave = lambda images: torch.sin(20_000 * mean(images)) + mean(images)  # noqa: E731
    _, (text,) = integrated(wave, torch.ones(1, 3, 2, 2), steps=2000)
    assert "try another baseline" in text
    assert "more than" not in text


def interrupted(steps: Iterator, answers: int, run: MethodContext) -> object:
    """What a method gives whose time is up after so many answers."""
    query = next(steps)
    for _ in range(answers):
        value = mean(query.images)
        query = steps.send(Answer(value[:, None], value, torch.ones_like(query.images), (), ()))
    with pytest.raises(StopIteration) as stop:
        steps.throw(TimeUp())
    return stop.value.value


def test_a_partial_smooth_grad_says_how_much_of_it_there_is() -> None:
    run = MethodContext(chunk=3, allow_partial=True)
    x = torch.full((1, 3, 4, 4), 0.5)
    found = interrupted(smooth_grad(x, logit(0), run, samples=500), 2, run)
    assert isinstance(found, Map)
    assert run.warnings == ["TIME_UP: a partial answer, since time ran out after 3 of 500 samples"]
    whole = MethodContext(chunk=3)
    finished(smooth_grad(x, logit(0), whole, samples=3), mean)
    assert not whole.warnings


@pytest.mark.parametrize(("done", "told"), [(2, "after 2 of 5 steps"), (5, "after all 5 steps, before their result")])
def test_a_picture_that_ran_out_of_time_says_so(done: int, told: str) -> None:
    record = Trajectory(MethodContext(), 5)
    for _ in range(done):
        record.step({"objective": torch.zeros(1)}, torch.zeros(1, 3, 2, 2))
    asking = record.ask([])
    next(asking)
    with pytest.raises(StopIteration):
        asking.throw(TimeUp())
    (text,) = record.run.warnings
    assert text.startswith("TIME_UP")
    assert told in text
