"""Explanations and attacks under every head, beside the same in plain torch."""

from functools import cache

import heads
import numpy as np
import pytest
import torch
from heads import KINDS, SIZE
from torch import Tensor
from zoo import CPU

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job, MethodContext
from gradserve_server.engine.objective import NotApplicable
from gradserve_server.methods.attack import Ball, Goal, GoalSpec
from gradserve_server.methods.attack.certificate import Certified, CertifyArguments, certify
from gradserve_server.methods.attack.input_transform import InputTransform
from gradserve_server.methods.targets import Target
from gradserve_server.models.behaviour import varied
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

from . import attacks, runs

EPS, STEPS = 8 / 255, 4


@cache
def model(name: str) -> Prepared:
    return prepare(ModelSpec.model_validate({"name": name, "precisions": ("exact",), **KINDS[name].entry}), CPU)


def picture(seed: int = 1) -> Tensor:
    return attacks.whole(varied(SIZE["height"], SIZE["width"], seed)[:1])


def right(name: str, x: Tensor) -> Tensor:
    """The logits [N, classes] in plain torch."""
    mean, std = (torch.tensor(SIZE[fact]).view(3, 1, 1) for fact in ("mean", "std"))
    return KINDS[name].logits((x - mean) / std)


def slope(name: str, x: Tensor, score: object) -> Tensor:
    """The gradient of score(logits) by the picture, in plain torch."""
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(score(right(name, x)).sum(), x)  # type: ignore[operator]
    return grad


def same(found: np.ndarray, expected: Tensor) -> None:
    expected = expected.detach().squeeze()
    assert float(np.abs(found - expected.numpy()).max()) <= 2e-4 * float(expected.abs().max())


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_explanations(name: str, rank: int) -> None:
    x, kind = picture(), KINDS[name]
    label = int(right(name, x)[0].argsort(descending=True)[rank - 1])
    target = Target(rank=rank)
    plain = runs.answer(model(name), x, "gradient", target, reduce="signed")
    assert plain.target == Target(label=label)
    assert plain.target_value == pytest.approx(float(right(name, x).detach()[0, label]), abs=1e-4)
    same(plain.values, slope(name, x, lambda logits: logits[:, label]).sum(1))
    loss = runs.answer(model(name), x, "gradient", target, log_prob=True, reduce="signed")
    same(loss.values, slope(name, x, lambda logits: -kind.loss(logits, label)).sum(1))
    product = runs.answer(model(name), x, "gradient_x_input", target)
    same(product.values, (x * slope(name, x, lambda logits: logits[:, label])).sum(1))


@pytest.mark.parametrize("name", KINDS)
def test_integrated_gradients_add_up_to_the_logit(name: str) -> None:
    x, label = picture(), 0
    nodes, weights = np.polynomial.legendre.leggauss(20)
    along = [slope(name, x * float((t + 1) / 2), lambda logits: logits[:, label]) * float(w / 2) for t, w in
             zip(nodes, weights, strict=True)]  # fmt: skip
    found = runs.answer(model(name), x, "integrated_gradients", Target(label=label), steps=20)
    same(found.values, (x * torch.stack(along).sum(0)).sum(1))
    rise = float((right(name, x) - right(name, torch.zeros_like(x))).detach()[0, label])
    assert found.completeness_gap == pytest.approx(found.values.sum() - rise, abs=1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_occlusion_is_the_drop_of_the_logit(name: str) -> None:
    x, label = picture(), 1
    found = runs.answer(model(name), x, "occlusion", Target(label=label), patch=1.0, stride=1.0, value=0.25)
    covered = x.clone()
    covered[..., : SIZE["height"]] = 0.25
    drop = float((right(name, x) - right(name, covered)).detach()[0, label])
    assert found.values[:, 0] == pytest.approx(drop, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_grad_cam_is_that_of_the_scores(name: str) -> None:
    x, outputs = picture().requires_grad_(), KINDS[name].outputs
    trunk, kept = heads.trunk(outputs=outputs), []
    trunk.norm2.register_forward_hook(lambda m, a, out: kept.append(out))
    mean, std = (torch.tensor(SIZE[fact]).view(3, 1, 1) for fact in ("mean", "std"))
    scores = trunk((x - mean) / std)
    top = torch.cat([-scores, scores], 1).amax() if KINDS[name].head == "binary" else scores.amax()
    (grad,) = torch.autograd.grad(top, kept[0])
    found = runs.answer(model(name), x.detach(), "grad_cam", layer="trunk.norm2")
    same(found.coarse, (kept[0] * grad.mean((2, 3), keepdim=True)).sum(1).relu())


def own_pgd(name: str, x: Tensor, loss: object) -> Tensor:
    """PGD in Linf from the picture itself (Madry et al. 2018), climbing loss(logits)."""
    adv = x
    for _ in range(STEPS):
        adv = adv + 0.25 * EPS * slope(name, adv, loss).sign()
        adv = (x + (adv - x).clamp(-EPS, EPS)).clamp(0, 1)
    return adv


def certificate(name: str, x: Tensor, pixels: np.ndarray, goal: Goal) -> Certified:
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    original = (x[0].permute(1, 2, 0) * 255).round().byte().numpy()
    arguments = CertifyArguments(original, goal, InputTransform())
    engine = Engine({"model": model(name)})
    engine.submit(Job("c", "model", lambda job: certify(job, picture, arguments)))
    (ended,) = [event for _ in iter(lambda: engine.idle, True) for event in engine.step() if isinstance(event, Ended)]
    assert ended.error is None
    return ended.result  # type: ignore[no-any-return]


def predicted(name: str, logits: Tensor, label: int) -> bool:
    return bool(logits[label] > 0) if KINDS[name].head != "softmax" else int(logits.argmax()) == label


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_attacks(name: str, targeted: bool, loss: str) -> None:
    x, kind = picture(), KINDS[name]
    order = right(name, x)[0].argsort(descending=True).tolist()
    label, target = order[0], order[-1] if targeted else None
    about = label if target is None else target
    sign = 1 if target is None else -1
    goal_spec = GoalSpec(label, target, loss=loss, head=kind.head)  # type: ignore[arg-type]
    (found,) = attacks.attacked(
        model(name), x, "pgd", goal_spec, Ball("linf", EPS), steps=STEPS, random_start=False, stop=False
    )
    assert predicted(name, right(name, x)[0], label)

    def climbed(logits: Tensor) -> Tensor:
        return sign * (kind.loss(logits, about) if loss == "cross_entropy" else -kind.margin(logits, about))

    own = own_pgd(name, x, climbed)
    last = found.trajectory[-1]
    assert last.value == pytest.approx(float(climbed(right(name, own))), rel=1e-3, abs=1e-4)
    assert last.margin == pytest.approx(sign * float(kind.margin(right(name, own), about)), rel=1e-3, abs=1e-3)
    judged = certificate(name, x, found.pixels, found.goal)
    for look, seen in (
        (judged.before, x),
        (judged.after, torch.from_numpy(found.pixels).permute(2, 0, 1)[None].float() / 255),
    ):
        logits = right(name, seen)
        same(look.logits, logits[0])
        assert look.margin == pytest.approx(sign * float(kind.margin(logits, about)), abs=1e-3)
        assert look.reached == (predicted(name, logits[0], about) == targeted)


@pytest.mark.parametrize("name", KINDS)
def test_a_large_attack_reaches_its_goal(name: str) -> None:
    x, kind = picture(), KINDS[name]
    label = int(right(name, x)[0].argmax())
    (found,) = attacks.attacked(model(name), x, "pgd", GoalSpec(label, head=kind.head), Ball("linf", 0.3), steps=20)
    judged = certificate(name, x, found.pixels, found.goal)
    assert not judged.before.reached
    assert judged.after.reached
    seen = right(name, torch.from_numpy(found.pixels).permute(2, 0, 1)[None].float() / 255)[0]
    assert not predicted(name, seen, label)


def test_an_absent_label_is_lost_already() -> None:
    x = picture()
    absent = int(right("label_logits", x)[0].argmin())
    assert right("label_logits", x)[0, absent] < 0
    goal_spec = GoalSpec(absent, head="multilabel")
    (found,) = attacks.attacked(model("label_logits"), x, "pgd", goal_spec, Ball("linf", EPS), steps=STEPS)
    assert np.array_equal(found.pixels, (x[0].permute(1, 2, 0) * 255).round().byte().numpy())
    assert certificate("label_logits", x, found.pixels, found.goal).before.reached


@pytest.mark.parametrize(
    ("goal_spec", "goal"),
    [
        (GoalSpec(head="multilabel"), Goal(2, None, head="multilabel")),
        (GoalSpec(head="multilabel", pick="runner_up"), Goal(2, 3, head="multilabel")),
        (GoalSpec(head="multilabel", pick="least_likely"), Goal(2, 1, head="multilabel")),
        (GoalSpec(label=1, head="multilabel", pick="least_likely"), Goal(1, 3, head="multilabel")),
        (GoalSpec(target=1, head="multilabel"), Goal(2, 1, head="multilabel")),
        (GoalSpec(label=2, target=3, head="multilabel"), Goal(2, 3, head="multilabel")),
        (GoalSpec(target=0, from_scratch=True, head="multilabel"), Goal(2, 0, head="multilabel")),
    ],
)
def test_goals_among_independent_labels(goal_spec: GoalSpec, goal: Goal) -> None:
    """Labels 2 and 0 are present, 3 and 1 are not."""
    assert goal_spec.goal(torch.tensor([1.0, -3.0, 2.0, -1.0]), MethodContext(0)) == goal


def test_a_random_target_is_an_absent_label() -> None:
    logits = torch.tensor([1.0, -3.0, 2.0, -1.0])
    picked = {GoalSpec(head="multilabel", pick="random").goal(logits, MethodContext(seed)).target for seed in range(20)}
    assert picked == {1, 3}


@pytest.mark.parametrize(
    ("goal_spec", "logits", "text"),
    [
        (GoalSpec(head="multilabel"), [-1.0, -2.0], "no label is present"),
        (GoalSpec(head="multilabel", pick="runner_up"), [1.0, 2.0], "every label is present"),
        (GoalSpec(head="multilabel", target=1), [1.0, 2.0], "the target is present for the model already"),
        (GoalSpec(head="multilabel", target=0), [1.0, 2.0], "the target is present .*; name a label that is absent"),
        (GoalSpec(label=1, head="multilabel", target=0), [1.0, 2.0], "the target is present for the model already"),
        (
            GoalSpec(label=2, head="multilabel", target=0),
            [1.0, 2.0, -1.0],
            "the target is present for the model already",
        ),
        (GoalSpec(head="binary", target=1), [-2.0, 2.0], "the target is what the model predicts already"),
    ],
)
def test_goals_that_make_no_sense_are_refused(goal_spec: GoalSpec, logits: list[float], text: str) -> None:
    with pytest.raises(NotApplicable, match=text):
        goal_spec.goal(torch.tensor(logits), MethodContext(0))


def test_an_absent_label_can_be_asked_for_where_none_is_present() -> None:
    assert GoalSpec(head="multilabel", target=0).goal(torch.tensor([-1.0, -2.0]), MethodContext(0)).target == 0


@pytest.mark.parametrize(("head", "sure"), [("softmax", 0.88), ("binary", 0.73), ("multilabel", 0.73)])
def test_confidence_is_the_heads_own_probability(head: str, sure: float) -> None:
    """A softmax of [-1, 1] gives the second class .881, a sigmoid of 1 gives it .731."""
    logits = torch.tensor([[-1.0, 1.0]])
    assert bool(Goal(0, 1, confidence=sure, head=head).reached(logits))  # type: ignore[arg-type]
    assert not bool(Goal(0, 1, confidence=sure + 0.002, head=head).reached(logits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("head", "logits", "label", "target", "reached"),
    [
        ("softmax", [1.0, 1.0], 0, None, False),
        ("softmax", [1.0, 1.0], 1, None, True),
        ("softmax", [1.0, 1.0], 1, 0, True),
        ("binary", [0.0, 0.0], 0, None, False),
        ("binary", [0.0, 0.0], 1, None, True),
        ("binary", [0.0, 0.0], 1, 0, True),
        ("binary", [0.0, 0.0], 0, 1, False),
        ("multilabel", [0.0, 1.0], 0, None, True),
        ("multilabel", [0.0, 1.0], 1, 0, False),
        ("multilabel", [0.1, 1.0], 0, None, False),
    ],
)
def test_goals_agree_with_predictions_at_a_margin_of_zero(
    head: str, logits: list[float], label: int, target: int | None, reached: bool
) -> None:
    """Of equal classes the first is predicted; a label is present above 0."""
    goal, found = Goal(label, target, head=head), torch.tensor([logits])  # type: ignore[arg-type]
    assert goal.reached(found).tolist() == [reached]


@pytest.mark.parametrize(
    ("head", "logits", "label", "target", "saturated"),
    [
        ("softmax", [40.0, 0.0], 0, None, True),
        ("softmax", [4.0, 0.0], 0, None, False),
        ("multilabel", [80.0, 80.0], 0, None, True),
        ("multilabel", [40.0, 80.0], 0, None, False),  # Another label's probability does not matter.
        ("multilabel", [80.0, -2.0], 0, 1, False),
        ("binary", [-80.0, 80.0], 1, None, True),
        ("binary", [-40.0, 40.0], 1, None, False),  # Its gradient is exact.
    ],
)
def test_a_saturated_probability_is_the_labels_own(
    head: str, logits: list[float], label: int, target: int | None, saturated: bool
) -> None:
    goal = Goal(label, target, head=head)  # type: ignore[arg-type]
    assert goal.saturated(torch.tensor([logits])).tolist() == [saturated]
    assert not Goal(label, target, "margin", head=head).saturated(torch.tensor([logits])).any()  # type: ignore[arg-type]


# Strengths of the last layer by the number of its outputs, with which 1 less the largest probability is 1e-8 or less.
SURE = {1: 90.0, 2: 260.0, 4: 320.0, 5: 200.0}


@cache
def sure_model(name: str) -> Prepared:
    arguments = {**KINDS[name].entry["arguments"], "strength": SURE[KINDS[name].outputs]}
    entry = {**KINDS[name].entry, "name": name, "precisions": ("exact",), "arguments": arguments}
    return prepare(ModelSpec.model_validate(entry), CPU)


def sure_slope(name: str, x: Tensor, label: int) -> tuple[Tensor, float]:
    """The gradient of the class's cross-entropy by the picture in float64, and 1 less its probability."""
    kind, x = KINDS[name], x.double().requires_grad_()
    mean, std = (torch.tensor(SIZE[fact], dtype=torch.float64).view(3, 1, 1) for fact in ("mean", "std"))
    scores = heads.trunk(outputs=kind.outputs, strength=SURE[kind.outputs]).double()((x - mean) / std)
    logits = torch.cat([-scores, scores], 1) if kind.head == "binary" else scores
    loss = kind.loss(logits, label)
    (grad,) = torch.autograd.grad(loss.sum(), x)
    return grad, float(-torch.expm1(-loss.detach()))


@pytest.mark.parametrize("name", KINDS)
def test_explanations_of_log_probabilities_are_exact_where_the_model_is_sure(name: str) -> None:
    x = picture()
    plain = runs.answer(sure_model(name), x, "gradient", Target(rank=1), log_prob=True, reduce="signed")
    grad, missing = sure_slope(name, x, plain.target.label)
    assert 0 < missing < 1e-8, "it rounds to 1 in fp32"
    assert plain.target_value == pytest.approx(-missing, rel=1e-3)
    same(plain.values, -grad.sum(1).float())


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.head != "softmax"])
def test_cross_entropy_of_sigmoids_is_exact_where_the_model_is_sure(name: str) -> None:
    """One step along the signs of the gradient ends where that of float64 does, and nothing warns of the softmax."""
    x, model = picture(), sure_model(name)
    label = int(model(x)[0].argmax())
    grad, missing = sure_slope(name, x, label)
    assert 0 < missing < 1e-8, "it rounds to 1 in fp32"
    goal_spec = GoalSpec(label, head=KINDS[name].head)  # type: ignore[arg-type]
    (found,) = attacks.attacked(model, x, "fgsm", goal_spec, Ball("linf", EPS))
    own = ((x + EPS * grad.sign()).clamp(0, 1)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    assert float((found.pixels == own).mean()) > 0.999
    assert not found.warnings


def test_softmax_and_its_scores_are_attacked_alike() -> None:
    """A network that ends in a saturated softmax has the gradients of its scores."""
    entry = {**KINDS["softmax"].entry, "name": "m", "precisions": ("exact",)}
    pixels = []
    for end in ("nothing", "softmax_method"):
        spec = ModelSpec.model_validate({**entry, "arguments": {"outputs": 5, "end": end, "strength": 120.0}})
        served = prepare(spec, CPU)
        (found,) = attacks.attacked(served, picture(), "pgd", GoalSpec(loss="margin"), Ball("linf", EPS), steps=STEPS)
        assert not any(warning.startswith("ZERO_GRADIENT") for warning in found.warnings)
        pixels.append(found.pixels)
    assert np.array_equal(*pixels)
