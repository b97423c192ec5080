"""Attacks against independent references: torchattacks, foolbox, and the papers' own words."""

import math
import warnings

import pytest
import torch
import torchattacks
from reference import Wrapped, in_engine_layout
from torch import Tensor
from zoo import in_double, inputs, photos

from gradserve_server.engine.objective import dlr, margin, targeted_dlr
from gradserve_server.engine.scores import score
from gradserve_server.methods.attack import Ball, Goal
from gradserve_server.methods.attack.apgd import checkpoints
from gradserve_server.models.prepared import Prepared

from .attacks import course, label_of, whole

ARCHITECTURES = ["trained-resnet20", "trained-mobilenet_v2", "trained-squeezenet1_0", "resnet18"]
EPS = 4 / 255
STEPS = 3


def reference(kind: str, model: Prepared, x: Tensor, label: int, target: int | None = None, **facts: object) -> Tensor:
    """The adversarial image that torchattacks makes."""
    attack = getattr(torchattacks, kind)(Wrapped(model), **facts)
    if target is not None:
        attack.set_mode_targeted_by_label(quiet=True)
    return attack(x, torch.tensor([label if target is None else target]))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("target", [None, 3])
def test_fgsm_and_linf_pgd_iterates_are_those_of_torchattacks(name: str, target: int | None) -> None:
    model, x = inputs(name)
    x, label = whole(x), label_of(model, x)
    goal = Goal(label, target)
    ours = course(model, x, "fgsm", goal, Ball("linf", EPS)).queries[-1].images
    assert torch.equal(ours, reference("FGSM", model, x, label, target, eps=EPS))
    queries = course(model, x, "pgd", goal, Ball("linf", EPS), steps=STEPS, random_start=False).queries
    assert len(queries) == STEPS + 1
    for steps, query in enumerate(queries[1:], 1):
        facts = {"eps": EPS, "alpha": EPS / 4, "steps": steps, "random_start": False}
        theirs = reference("PGD", model, x, label, target, **facts)
        assert torch.equal(query.images, theirs), f"iterate {steps}"


def unsaturated(model: Prepared, images: Tensor, most: float = 0.999) -> Tensor:
    with torch.no_grad():
        return images[model(images).softmax(1).amax(1) < most]


@pytest.mark.parametrize(("precise", "tolerance"), [(True, 1e-9), (False, 5e-3)])
def test_l2_pgd_iterates_are_those_of_torchattacks(precise: bool, tolerance: float) -> None:
    model = in_double("trained-resnet20") if precise else inputs("trained-resnet20")[0]
    images = unsaturated(model, whole(photos(model, 40)))[:6]
    assert len(images) == 6
    for x in images.split(1):
        label, ball = label_of(model, x), Ball("l2", 0.5)
        ours = course(model, x, "pgd", Goal(label), ball, steps=5, step=0.2, random_start=False).queries[-1].images
        theirs = reference("PGDL2", model, x, label, eps=0.5, alpha=0.1, steps=5, random_start=False)
        assert (ours - theirs).abs().max() < tolerance
        assert (ours - x).abs().max() > 0.01, "it went somewhere"


def test_linf_pgd_is_that_of_foolbox() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox

    model, x = inputs("trained-resnet20")
    x, label = whole(x), label_of(model, x)
    theirs = foolbox.PyTorchModel(Wrapped(model), bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=EPS / 4, steps=STEPS, random_start=False)
    _, clipped, _ = attack(theirs, x, torch.tensor([label]), epsilons=[EPS])
    ours = course(model, x, "pgd", Goal(label), Ball("linf", EPS), steps=STEPS, random_start=False)
    torch.testing.assert_close(ours.queries[-1].images, clipped[0], rtol=0, atol=1e-6)


def test_checkpoints_are_the_papers() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    p = [0.0, 0.22]
    while p[-1] <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    for steps in (7, 10, 33, 250):
        wanted = {math.ceil(round(share * steps, 6)) for share in p[1:]}
        assert checkpoints(steps) == sorted(w for w in wanted if w <= steps)


def algorithm_1(model: Prepared, x: Tensor, start: Tensor, goal: Goal, ball: Ball, steps: int) -> list[Tensor]:
    """Croce, Hein 2020, algorithm 1, written down line by line for one start. Returns the iterates."""

    def f(image: Tensor) -> tuple[float, Tensor]:
        image = image.clone().requires_grad_()
        logits = model(in_engine_layout(image))
        value = -score([(goal.objective() * -1.0, range(1))], 1, {"": logits}).sum()
        return value.item(), torch.autograd.grad(value, image)[0]

    def project(image: Tensor) -> Tensor:
        change = image - x
        if ball.norm == "linf":
            return (x + change.clamp(-ball.eps, ball.eps)).clamp(0, 1)
        return (x + change * min(1.0, ball.eps / max(change.norm().item(), 1e-12))).clamp(0, 1)

    def direction(grad: Tensor) -> Tensor:
        return grad.sign() if ball.norm == "linf" else grad / grad.norm()

    eta, alpha, rho = 2 * ball.eps, 0.75, 0.75
    iterates, values = [start], []
    (value, grad), w = f(start), [0, *checkpoints(steps)]
    values.append(value)
    best, best_value, best_grad = start, value, grad
    etas, bests = {0: eta}, {0: value}
    x_k, previous = start, start
    for k in range(steps):
        if k in w[1:]:
            last = w[w.index(k) - 1]
            climbs = sum(values[i + 1] > values[i] for i in range(last, k))
            stuck = climbs < rho * (k - last) or (etas[last] == eta and bests[last] == best_value)
            etas[k], bests[k] = eta / 2 if stuck else eta, best_value
            if stuck:
                eta, x_k, grad, values[k] = eta / 2, best, best_grad, best_value
        z = project(x_k + eta * direction(grad))
        a = 1.0 if k == 0 else alpha
        after = project(x_k + a * (z - x_k) + (1 - a) * (x_k - previous))
        previous, x_k = x_k, after
        iterates.append(after)
        value, grad = f(after)
        values.append(value)
        if value > best_value:
            best, best_value, best_grad = after, value, grad
    return iterates


@pytest.mark.parametrize("loss", ["cross_entropy", "dlr"])
@pytest.mark.parametrize("ball", [Ball("linf", 2 / 255), Ball("l2", 0.25)], ids=["linf", "l2"])
def test_apgd_iterates_are_those_of_algorithm_1(ball: Ball, loss: str) -> None:
    model = in_double("trained-resnet20")
    for x in unsaturated(model, whole(photos(model, 60)), 0.9)[:2].split(1):
        goal = Goal(label_of(model, x), loss=loss)
        found = course(model, x, "apgd", goal, ball, steps=25)
        wanted = algorithm_1(model, x, found.queries[0].images, goal, ball, 25)
        for number, (query, theirs) in enumerate(zip(found.queries, wanted, strict=True)):
            torch.testing.assert_close(query.images, theirs, rtol=0, atol=1e-9, msg=f"iterate {number}")


def test_losses_are_the_papers() -> None:
    logits = torch.randn(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for row in logits:
        z, s = row.tolist(), sorted(row.tolist())
        for y in range(7):
            others = max(v for i, v in enumerate(z) if i != y)
            values = [score([(objective(y), range(1))], 1, {"": row[None]}).item() for objective in (margin, dlr)]
            assert values == pytest.approx([z[y] - others, (z[y] - others) / (s[-1] - s[-3])])
            t = (y + 2) % 7
            value = score([(targeted_dlr(y, t), range(1))], 1, {"": row[None]}).item()
            assert value == pytest.approx((z[y] - z[t]) / (s[-1] - (s[-3] + s[-4]) / 2))
