"""Passes alone: the same bytes in whatever company, whatever an engine did before, and however little time it has."""

import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from zoo import at, inputs

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job, Steps
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Query
from gradserve_server.engine.repeatable import repeatable
from gradserve_server.methods.attack import Ball, GoalSpec, attack
from gradserve_server.methods.explain import ExplainArguments, explain
from gradserve_server.methods.stylize import StylizeArguments, StylizeSettings, default_style_layers, stylize
from gradserve_server.models.card import Precision
from gradserve_server.models.catalogue import PRECISIONS
from gradserve_server.models.prepared import Prepared

from .attacks import plan, whole
from .runs import call

NETWORKS = ["resnet18", "mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x0_5"]
# Together they have gradients, layers, rules of ReLUs, and logits alone.
EVERY_KIND_OF_QUERY = ("pgd", "side by side", "stylize")
BALL = Ball("linf", 4 / 255)
Method = Callable[[Job], Steps]


def attacking(name: str, **facts: object) -> Callable[[Prepared, Tensor], Method]:
    def made(model: Prepared, x: Tensor) -> Method:
        wanted = plan(model, name, GoalSpec(), BALL, dict(facts))
        return lambda job: attack(job, x, wanted)

    return made


def explaining(*names: str) -> Callable[[Prepared, Tensor], Method]:
    small = {"smooth_grad": {"samples": 7}, "integrated_gradients": {"steps": 5}, "occlusion": {"patch": 0.5}}

    def made(model: Prepared, x: Tensor) -> Method:
        arguments = ExplainArguments(tuple(call(model, name, **small.get(name, {})) for name in names))
        return lambda job: explain(job, x, arguments)

    return made


def stylizing(model: Prepared, x: Tensor) -> Method:
    style = (x[0].flip(2).permute(1, 2, 0) * 255).round().byte().numpy()
    layers = default_style_layers(model.card)
    settings = StylizeSettings(steps=2, start="noise", pad=0.0)
    return lambda job: stylize(job, x, StylizeArguments(False, ((style, 1.0),), layers, (), settings))


METHODS = {
    "pgd": attacking("pgd", steps=3, restarts=2),
    "apgd": attacking("apgd", steps=4),
    "square": attacking("square", queries=10),
    "one_pixel": attacking("one_pixel", population=6, generations=2),
    "smooth_grad": explaining("smooth_grad"),
    "integrated_gradients": explaining("integrated_gradients"),
    "side by side": explaining("smooth_grad", "grad_cam", "guided_backprop", "occlusion"),
    "stylize": stylizing,
}


def asking(rows: Tensor, repeated: int = 2) -> Method:
    """One of the company: gradients of all rows, again and again."""

    def method(job: Job) -> Steps:
        for i in range(repeated):
            yield Query(rows, logit(i), "image")

    return method


def answered(model: Prepared, engine: Engine, precision: Precision, made: Method, company: Tensor | None) -> bytes:
    """What a job alone is told, beside a job for each row of `company` and a wide one of all of them."""
    facts = {"alone": True, "seed": 7, "chunk": 1}
    if company is not None:
        engine.submit(Job("wide", "model", asking(company), precision))
        for i, row in enumerate(company.split(1)):
            engine.submit(Job(f"{i}", "model", asking(row), precision))
            engine.submit(Job(f"other {i}", "model", asking(row), precision, alone=True))
        facts["deadline"] = engine._clock() + 1000
    engine.submit(Job("mine", "model", made, precision, **facts))
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Ended):
                assert event.error is None, event.error
                if event.job.id == "mine":
                    return pickle.dumps(event.result)
    raise AssertionError("it never ended")


@pytest.mark.parametrize("network", NETWORKS)
def test_the_same_bytes_in_other_company(network: str) -> None:
    """On a fresh engine by itself; then beside others, on one that has done it all."""
    model, images = inputs(network, 4)
    rows = whole(images.detach())
    first, later = Engine({"model": model}, rows=8), Engine({"model": model}, rows=3)
    names = METHODS if network == "squeezenet1_1" else EVERY_KIND_OF_QUERY
    made = {name: METHODS[name](model, rows[:1]) for name in names}
    by_itself = {name: answered(model, first, "exact", method, None) for name, method in made.items()}
    for name, method in made.items():
        assert answered(model, later, "exact", method, rows[1:]) == by_itself[name], name
    assert max(each.rows for each in later.passes) == 3, "the others shared passes"
    assert any(each.rows == 1 for each in later.passes)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("network", ["resnet18", "swin_t"])
def test_in_every_precision(network: str, precision: Precision) -> None:
    model, images = inputs(network, 4)
    at(model, precision)
    rows = whole(images.detach())
    for name in ("pgd", "smooth_grad"):
        made = METHODS[name](model, rows[:1])
        engines = [Engine({"model": model}, rows=count) for count in (8, 3)]
        company = [None, rows[1:]]
        found = [answered(model, *each[:1], precision, made, each[1]) for each in zip(engines, company, strict=True)]
        assert found[0] == found[1], name


def test_a_style_known_from_company_is_computed_anew() -> None:
    model, images = inputs("squeezenet1_1", 2)
    made = stylizing(model, whole(images.detach())[:1])
    engine = Engine({"model": model})
    engine.submit(Job("shared", "model", made))
    while not engine.idle:
        engine.step()
    before = len(engine.passes)
    answered(model, engine, "exact", made, None)
    first = len(engine.passes) - before
    answered(model, engine, "exact", made, None)
    assert len(engine.passes) - before == 2 * first - 1, "the second job alone takes the first one's"


def test_a_gpu_takes_deterministic_operations_inside_and_its_own_outside() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with repeatable(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
    with repeatable(torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
