"""Attacks on one class after another, and the standard ensemble of attacks: order, stages, and what they warn of."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchattacks
from paths import CASES, DATA
from reference import Wrapped
from torch import Tensor, nn
from zoo import in_double, inputs, photos, prepared

from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.job import Job, TimeUp
from gradserve_server.engine.query import Part
from gradserve_server.engine.scores import score
from gradserve_server.methods.attack import METHODS, Attacked, Ball, Goal, GoalSpec, attack
from gradserve_server.methods.attack.ensemble import STAGES
from gradserve_server.methods.attack.input_transform import InputTransform
from gradserve_server.methods.attack.patch import FINAL_TRIALS
from gradserve_server.methods.attack.windows import _bump, start, with_windows
from gradserve_server.methods.parameters import bind
from gradserve_server.models.catalogue import EMBEDDED
from gradserve_server.models.preparation import prepare

from .attacks import attacked, course, label_of, plan, whole
from .test_attack_references import algorithm_1, unsaturated

NOTHING = Ball("linf", 0.2 / 255)  # A budget within which no 8-bit picture differs from the original.
SHORT = {"steps": 3, "classes": 2, "queries": 20}


def codes(found: Attacked) -> list[str]:
    return [text.split(":")[0] for text in found.warnings]


@pytest.mark.parametrize("loss", ["dlr", "probability_margin"])
@pytest.mark.parametrize("ball", [Ball("linf", 0.5 / 255), Ball("l2", 0.05)], ids=["linf", "l2"])
def test_targeted_apgd_climbs_to_each_class_in_turn_as_algorithm_1_does(ball: Ball, loss: str) -> None:
    model, steps = in_double("trained-resnet20"), 23
    (x,) = unsaturated(model, whole(photos(model, 60)), 0.9)[:1].split(1)
    label, order = label_of(model, x), model(x)[0].argsort(descending=True).tolist()
    facts = {"steps": steps, "classes": 3}
    first, *queries = course(model, x, "apgd_targeted", Goal(label, loss=loss), ball, **facts).queries
    assert torch.equal(first.images, x)
    assert len(queries) == 3 * (steps + 1)
    starts = []
    for number, target in enumerate(order[1:4]):
        mine = queries[number * (steps + 1) : (number + 1) * (steps + 1)]
        starts.append(mine[0].images)
        wanted = algorithm_1(model, x, starts[-1], Goal(label, target, loss), ball, steps)
        for query, theirs in zip(mine, wanted, strict=True):
            assert (query.images - theirs).abs().max() < 1e-9
    assert not torch.equal(starts[0], starts[1])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_malt_tries_the_classes_that_are_the_nearest_to_first_order(norm: str) -> None:
    model = in_double("trained-resnet20")
    reordered = 0
    for x in unsaturated(model, whole(photos(model, 60)), 0.99)[:4].split(1):
        label, x = label_of(model, x), x.contiguous(memory_format=torch.channels_last)
        leaf = x.clone().requires_grad_()
        z = model(leaf)[0]
        others = [c for c in z.argsort(descending=True).tolist() if c != label][:6]
        distances = {}
        for other in others:
            (grad,) = torch.autograd.grad(z[label] - z[other], leaf, retain_graph=True)
            distances[other] = float((z[label] - z[other]) / (grad.abs().sum() if norm == "linf" else grad.norm()))
        nearest = sorted(others, key=distances.__getitem__)
        reordered += nearest != others
        facts = {"steps": 2, "classes": 4, "candidates": 6}
        found = course(model, x, "malt", Goal(label, loss="dlr"), Ball(norm, 1e-4), **facts).queries
        climbs = [query.objective for query in found if query.wrt == "image"][6::2]
        assert [climb.terms[0].indices for climb in climbs] == [(label, other) for other in nearest[:4]]
    assert reordered, "or this test would prove nothing"


def test_the_ensemble_tells_what_every_stage_did() -> None:
    model, x = inputs("trained-resnet20", 3)
    for found in attacked(model, whole(x), "ensemble", ball=NOTHING, stop=True, **SHORT):
        stages = found.notes["stages"]
        assert [stage.method for stage in stages] == list(STAGES)
        assert not any(stage.reached for stage in stages)
        rows = METHODS["ensemble"].rows(bind(METHODS["ensemble"].function, SHORT))
        assert (found.queries, found.gradients) == (rows.scores + rows.gradients, rows.gradients)
        for stage in stages:
            own = bind(
                METHODS[stage.method].function, {k: v for k, v in SHORT.items() if k in own_parameters(stage.method)}
            )
            wanted = METHODS[stage.method].rows(own)
            assert (stage.queries, stage.gradients) == (sum(wanted), wanted.gradients)
        assert not found.warnings
        assert (found.asked, found.done) == (4, 4)
        assert sorted(point.step for point in found.trajectory) == [point.step for point in found.trajectory]
    for found in attacked(model, whole(x), "ensemble", ball=Ball("linf", 8 / 255), stop=True, steps=20):
        ((method, reached, queries, gradients),) = found.notes["stages"]
        assert (method, reached) == ("apgd", True)
        assert (queries, gradients) == (found.queries, found.gradients)
        assert found.gradients < 20
    (found,) = attacked(model, whole(x)[:1], "ensemble", ball=Ball("linf", 8 / 255), stop=False, steps=6)
    ((_, reached, queries, gradients),) = found.notes["stages"]
    assert (reached, queries, gradients) == (True, 8, 6), "without a first success the stage takes all its steps"


def own_parameters(method: str) -> set[str]:
    return set(bind(METHODS[method].function, {}))


class Stairs(nn.Module):
    """The same network with its logits rounded, which have no gradient."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: Tensor) -> Tensor:
        return (self.network(x) * self.scale).round() / self.scale


def test_masked_gradients_are_told() -> None:
    model, x = inputs("trained-resnet20", 3)
    stairs = replace(model, network=Stairs(model.network, 50.0))
    facts = {"steps": 5, "classes": 2, "queries": 1000}
    for found in attacked(stairs, whole(x), "ensemble", ball=Ball("linf", 4 / 255), stop=True, **facts):
        assert [stage.reached for stage in found.notes["stages"]] == [False, False, False, True]
        assert codes(found) == ["MASKED_GRADIENTS"]
    for found in attacked(model, whole(x), "ensemble", ball=Ball("linf", 4 / 255), stop=True, **facts):
        assert not found.warnings
    for found in attacked(stairs, whole(x), "ensemble", ball=NOTHING, stop=True, **SHORT):
        assert "ZERO_GRADIENT" in codes(found), "none of the attacks by gradients could move"


class Loud(nn.Module):
    """The same decisions, with a softmax that rounds to 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return 1000 * self.network(x)


def test_what_blinds_one_stage_alone_is_no_obstacle_to_the_ensemble() -> None:
    quiet, x = inputs("trained-resnet20", 3)
    model = replace(quiet, network=Loud(quiet.network))
    assert all(codes(found) for found in attacked(model, whole(x), "apgd", ball=NOTHING, steps=3))
    for found in attacked(model, whole(x), "ensemble", ball=NOTHING, stop=True, **SHORT):
        assert not codes(found)


def test_an_ensemble_that_runs_out_of_time_does_not_advise_a_loss_that_it_refuses() -> None:
    model, x = inputs("trained-resnet20", 1)
    x, arguments = whole(x), plan(model, "ensemble", GoalSpec(loss="margin"), NOTHING, {"stop": True, **SHORT})
    job = Job("job", "model", lambda job: attack(job, x, arguments), allow_partial=True)
    steps = attack(job, x, arguments)
    query = next(steps)
    for _ in range(2):
        (answer,) = differentiate(model, [Part(query, range(len(query.images)))])
        if answer.image_grad is not None:
            answer = replace(answer, image_grad=torch.zeros_like(answer.image_grad))
        query = steps.send(answer)
    with pytest.raises(StopIteration) as ended:
        steps.throw(TimeUp())
    found = ended.value.value
    assert [(stage.method, stage.reached) for stage in found.notes["stages"]] == [("apgd", False)]
    assert codes(found) == ["TIME_UP", "ZERO_GRADIENT"]
    assert "loss margin" not in " ".join(found.warnings)


def test_a_probability_margin_is_the_difference_of_probabilities() -> None:
    logits = torch.randn(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for row in logits:
        p, s = row.softmax(0).tolist(), row.sigmoid().tolist()
        for y, t in ((0, 3), (4, 1)):
            losses = {
                "softmax": (max(v for i, v in enumerate(p) if i != y) - p[y], p[t] - p[y]),
                "multilabel": (-s[y], s[t]),
            }
            for head, wanted in losses.items():
                goals = [Goal(y, target, "probability_margin", head=head) for target in (None, t)]
                values = [score([(g.objective(), range(1))], 1, {"": row[None]}, head).sum().item() for g in goals]
                assert values == pytest.approx(list(wanted))


def test_a_probability_margin_says_where_it_saturates() -> None:
    quiet, x = inputs("trained-resnet20", 2)
    model = replace(quiet, network=Loud(quiet.network))
    for found in attacked(model, whole(x), "apgd", GoalSpec(loss="probability_margin"), NOTHING, steps=3):
        assert set(codes(found)) <= {"SATURATED", "ZERO_GRADIENT"}
        assert codes(found)
    for found in attacked(quiet, whole(x), "pgd", GoalSpec(loss="probability_margin"), Ball("linf", 4 / 255), steps=20):
        assert found.first_success is not None


# Of the first 200 test pictures, by the official AutoAttack: those that fall to targeted APGD alone, and others.
CHOSEN = {"cifar10-robust": [0, 1, 4, 10], "resnet20": [0, 4, 92, 196]}
BUDGETS = {"cifar10-robust": 8 / 255, "resnet20": 1 / 255}


@pytest.mark.parametrize("name", CHOSEN)
def test_stages_are_those_of_the_official_code(name: str, data: object) -> None:
    """By gradients alone; `python -m tests.bench.ensemble` compares all pictures and stages."""
    cases = {case["network"]: case for case in json.loads(CASES.with_name("autoattack.json").read_text())}
    model = prepared("trained-resnet20") if name == "resnet20" else prepare(EMBEDDED[name], torch.device("cpu"))
    images, labels = whole(photos(model, 200)), known_labels()
    facts = {"stop": True, "queries": 2, "steps": 100}
    after = cases[name]["after"]
    for i in CHOSEN[name]:
        wanted = [stage for stage in ("apgd-ce", "apgd-t") if not after[stage]["stands_8bit"][i]]
        spec = GoalSpec(labels[i])
        ball = Ball("linf", BUDGETS[name])
        if wanted:
            (found,) = attacked(model, images[i : i + 1], "ensemble", spec, ball, seed=i, **facts)
            assert found.notes["stages"][-1].method == ("apgd" if wanted[0] == "apgd-ce" else "apgd_targeted")
            assert found.notes["stages"][-1].reached
        else:
            (found,) = attacked(model, images[i : i + 1], "apgd", spec, ball, seed=i, stop=True)
            assert found.first_success is None


def known_labels() -> list[int]:
    with np.load(DATA / "cifar10-test-1000.npz") as file:
        return file["labels"].tolist()


def test_square_in_l2_keeps_to_the_edge_of_the_ball() -> None:
    model, x = inputs("trained-resnet20", 1)
    x = 0.25 + x / 2  # So that few pixels meet the box.
    goal = Goal(label_of(model, x), loss="margin")
    queries = course(model, x, "square", goal, Ball("l2", 0.5), queries=80).queries
    distances = torch.cat([(query.images - x).flatten(1).norm(dim=1) for query in queries])
    assert distances.tolist() == pytest.approx([0.5] * 80, abs=1e-5)


def test_bumps_in_l2_are_those_of_the_reference() -> None:
    model = prepared("trained-resnet20")
    theirs, x = torchattacks.Square(Wrapped(model), norm="L2"), torch.zeros(1, 3, 4, 4)
    for side in (2, 3, 5, 6, 13, 29):
        wanted = theirs.eta(side)
        made = [_bump(side, np.random.default_rng(seed), x) for seed in range(8)]
        assert all(torch.allclose(bump, wanted) or torch.allclose(bump, wanted.T) for bump in made)
        assert any(not torch.allclose(bump, made[0]) for bump in made), "half of them are turned"


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (3, 3), (4, 9)])
def test_square_in_l2_takes_the_smallest_pictures(size: tuple[int, int]) -> None:
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    ball = Ball("l2", 0.2)
    best = start(x, ball, rng)
    for area in (0.8, 0.1, 0.001):
        best = with_windows(best, x, ball, area, rng)
        assert best.isfinite().all()
        assert 0 < float((best - x).norm()) < 0.2 + 1e-6


@pytest.mark.parametrize("method", ["apgd_targeted", "malt", "fab_targeted", "ensemble"])
def test_they_see_through_random_changes_and_defences(method: str) -> None:
    model, x = inputs("trained-resnet20", 1)
    facts = {name: value for name, value in {**SHORT, "candidates": 3}.items() if name in own_parameters(method)}
    rows = METHODS[method].rows(bind(METHODS[method].function, facts))
    changes = {"samples": 3, "rotation": 5.0, "scale": 0.05, "brightness": 0.05, "noise": 0.01}
    transforms = [InputTransform(defence="noise", parameters={"std": 0.02})]
    transforms += [InputTransform(eot=changes)] if METHODS[method].eot else []
    for transform in transforms:
        own = {"transform": transform, "adaptive": True, **facts}
        (found,) = attacked(model, whole(x), method, GoalSpec(loss=METHODS[method].loss), NOTHING, **own)
        assert found.gradients == rows.gradients * transform.views
        again = FINAL_TRIALS + 3 if transform.eot else 0  # Its success is measured under fresh changes.
        assert found.queries <= (rows.scores + rows.gradients) * transform.views + again
