"""Attacks: budgets that hold after rounding, goals, stopping, and what each method promises."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import inputs, pictures, prepared

from gradserve_server.engine.job import MethodContext
from gradserve_server.engine.objective import NotApplicable
from gradserve_server.methods.attack import METHODS, Ball, Goal, GoalSpec
from gradserve_server.methods.attack.ball import length
from gradserve_server.methods.attack.baselines import Kind
from gradserve_server.methods.attack.corruptions import KINDS
from gradserve_server.methods.attack.input_transform import InputTransform, eot
from gradserve_server.methods.attack.one_pixel import _triples
from gradserve_server.methods.attack.patch import placed
from gradserve_server.methods.parameters import bind
from gradserve_server.models.prepared import Prepared

from .attacks import attacked, course, label_of, whole

STILL = {"samples": 3, "rotation": 0.0, "scale": 0.0, "brightness": 0.0, "noise": 0.0}
SHORT: dict[str, dict[str, object]] = {
    "gradient_ascent": {"steps": 3},
    "fgsm": {},
    "pgd": {"steps": 3, "restarts": 2},
    "apgd": {"steps": 4},
    "one_pixel": {"population": 8, "generations": 3},
    "square": {"queries": 20, "candidates": 3},
    "transfer": {"surrogate": "other", "steps": 3},
    "fooling": {"population": 8, "generations": 3},
    "sphere": {"points": 9},
    "corruption": {"kind": "contrast", "severity": 4},
    "patch": {"steps": 3, "places": 4},
    "apgd_targeted": {"steps": 3, "classes": 2},
    "fab_targeted": {"steps": 3, "classes": 2},
    "ensemble": {"steps": 3, "classes": 2, "queries": 20},
    "malt": {"steps": 3, "classes": 2, "candidates": 5},
}


def run_short(model: Prepared, images: Tensor, method: str, **facts: object) -> list:
    goal_spec = GoalSpec(target=3, from_scratch=True) if method == "fooling" else GoalSpec()
    models = {"model": model, "other": model}
    return attacked(models, images, method, goal_spec, ball_of(method), **SHORT[method], **facts)


def ball_of(method: str) -> Ball:
    return Ball("linf", 8 / 255) if METHODS[method].bounded else Ball()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_to_its_budget_and_counts(method: str) -> None:
    model = prepared("resnet18")
    x = whole(pictures(model, 1))
    (found,) = run_short(model, x, method)
    change = found.pixels.astype(np.int64) - (x[0] * 255).round().permute(1, 2, 0).numpy()
    assert found.ball.holds(np.abs(change).max() / 255, np.sqrt(np.square(change / 255).sum()))
    wanted = METHODS[method].rows(bind(METHODS[method].function, SHORT[method]))
    spare = 1 if METHODS[method].stops_early else 0  # The encoding of a success is tried too.
    if method == "ensemble":  # It ends after the first attack that succeeds.
        assert 0 < found.gradients <= wanted.gradients
    else:
        assert found.gradients == wanted.gradients
    assert found.queries <= wanted.scores + wanted.gradients + spare
    assert found.queries > 0
    assert [point.step for point in found.trajectory] == sorted({point.step for point in found.trajectory})


@pytest.mark.parametrize(
    "method", ["pgd", "square", "one_pixel", "patch", "sphere", "apgd_targeted", "fab_targeted", "ensemble", "malt"]
)
def test_an_attack_is_the_same_alone_and_in_company(method: str) -> None:
    model = prepared("resnet18")
    images = whole(pictures(model, 3))
    alone = [run_short(model, image, method, seed=7)[0] for image in images.split(1)]
    for one, other in zip(alone, run_short(model, images, method, seed=7), strict=True):
        levels = np.abs(one.pixels.astype(int) - other.pixels.astype(int))
        assert (levels > 1).mean() < 0.01, "rounding may turn the sign of a few tiny gradients"
        assert (one.queries, one.goal) == (other.queries, other.goal)


@pytest.mark.parametrize("eps", [0.0, 0.3 / 255, 1 / 255, 2.5 / 255, 8 / 255, 1.0])
def test_encoding_stays_within_linf(eps: float) -> None:
    x = whole(torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(0)))
    ball = Ball("linf", eps)
    images = ball.project(torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(1)), x)
    change = ball.encoded(images, x).double() - (x * 255).round()
    assert change.abs().max() <= eps * 255 + 1e-6
    assert (change / 255 - (images - x)).abs().max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize("eps", [0.0, 0.01, 0.1, 0.5, 3.0])
def test_encoding_stays_within_l2_where_plain_rounding_does_not(eps: float) -> None:
    x = whole(0.3 + 0.4 * torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    ball = Ball("l2", eps)
    images = ball.project(x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), x)
    change = (ball.encoded(images, x).double() - (x * 255).round().double()) / 255
    assert length(change).max() <= eps + 1e-6
    assert (change - (images - x)).abs().max() <= 1 / 255 + 1e-6
    rounded = (images * 255).round() / 255 - x
    if eps == 0.1:
        assert length(rounded).min() > 1.01 * eps, "or this test would prove nothing"
        assert length(change).min() > 0.99 * eps, "little of the budget is lost"


def test_projection_is_onto_the_ball() -> None:
    x = torch.full((1, 3, 4, 4), 0.5)
    far = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for norm, order in (("linf", float("inf")), ("l2", 2)):
        ball = Ball(norm, 0.2)
        assert length(ball.project(far, x) - x, order).item() == pytest.approx(0.2)
        assert torch.allclose(ball.project(x + 0.001 * (far - x), x), x + 0.001 * (far - x))
        starts = ball.random(x, MethodContext(3), 5)
        assert length(starts - x, order).max() <= 0.2 + 1e-6
        assert len({tuple(start.flatten().tolist()) for start in starts}) == 5
        assert torch.equal(ball.random(x, MethodContext(3), 5), starts)


def test_a_direction_has_length_one_however_small_the_gradient() -> None:
    grad = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 1e-30
    grad[1] = 0
    made = Ball("l2", 1.0).direction(grad)
    assert length(made).flatten().tolist() == pytest.approx([1, 0])
    assert torch.equal(Ball("linf", 1.0).direction(grad), grad.sign())


def test_goals() -> None:
    logits = torch.tensor([3.0, 1.0, 2.5, -1.0])
    rows = logits[None]
    assert Goal(0).margin(rows).item() == pytest.approx(0.5)
    assert not Goal(0).reached(rows).item()
    assert Goal(1).reached(rows).item()
    assert Goal(0, 2).margin(rows).item() == pytest.approx(0.5)
    assert Goal(1, 0).reached(rows).item()
    assert not Goal(1, 0, confidence=0.99).reached(rows).item()
    run = MethodContext(5)
    assert GoalSpec().goal(logits, run) == Goal(0)
    assert GoalSpec(pick="runner_up").goal(logits, run).target == 2
    assert GoalSpec(pick="runner_up", label=2).goal(logits, run).target == 0
    assert GoalSpec(pick="least_likely").goal(logits, run).target == 3
    drawn = [GoalSpec(pick="random").goal(logits, MethodContext(seed)).target for seed in range(40)]
    assert set(drawn) == {1, 2, 3}
    with pytest.raises(NotApplicable, match="predicts already"):
        GoalSpec(target=0).goal(logits, run)


def test_the_first_success_ends_an_attack() -> None:
    model, x = inputs("trained-resnet20", 4)
    x = whole(x)
    every = attacked(model, x, "pgd", steps=20)
    first = attacked(model, x, "pgd", steps=20, stop=True)
    for long, short in zip(every, first, strict=True):
        assert (long.done, long.queries) == (20, 21)
        assert short.first_success is not None
        assert short.done < 20
        assert short.queries == short.done + 2, "its steps, and a look at its encoding"
        assert short.first_success == short.done


class _Loud(nn.Module):
    """A network that is very sure of itself: the same decisions, logits a thousand times as large."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return 1000 * self.network(x)


def test_margin_attacks_what_cross_entropy_cannot() -> None:
    quiet, x = inputs("trained-resnet20", 3)
    model, x = replace(quiet, network=_Loud(quiet.network)), whole(x)
    blind = attacked(model, x, "pgd", GoalSpec(loss="cross_entropy"), random_start=False)
    seeing = attacked(model, x, "pgd", GoalSpec(loss="margin"), random_start=False)
    assert [found.first_success for found in blind] == [None] * 3
    assert all(any("ZERO_GRADIENT" in text for text in found.warnings) for found in blind)
    assert None not in [found.first_success for found in seeing]
    assert not any(found.warnings for found in seeing)


def test_one_pixel_changes_one_pixel_and_never_gets_worse() -> None:
    model, x = inputs("trained-resnet20", 1)
    for pixels in (1, 3):
        (found,) = attacked(model, whole(x), "one_pixel", ball=Ball(), population=20, generations=6, pixels=pixels)
        changed = (found.pixels != (whole(x)[0] * 255).round().permute(1, 2, 0).numpy()).any(2).sum()
        assert 1 <= changed <= pixels
    triples = _triples(9, np.random.default_rng(0))
    assert all(len({i, *row}) == 4 for i, row in enumerate(triples.tolist()))
    assert triples.min() == 0
    assert triples.max() == 8


def test_square_stays_at_the_edge_of_the_ball() -> None:
    model, x = inputs("trained-resnet20", 1)
    x, eps = whole(x), 2 / 255
    queries = course(model, x, "square", Goal(label_of(model, x), loss="margin"), Ball("linf", eps), queries=60).queries
    inner = (x > eps) & (x < 1 - eps)
    for query in queries:
        assert torch.allclose((query.images - x).abs()[inner.expand_as(query.images)], torch.tensor(eps), atol=1e-6)


def test_transfer_asks_the_surrogate_for_gradients_and_the_model_for_one_look() -> None:
    model, x = inputs("trained-resnet20", 1)
    x = whole(x)
    queries = course(model, x, "transfer", Goal(label_of(model, x)), surrogate="other", steps=4).queries
    assert [(query.model, query.wrt) for query in queries] == [("other", "image")] * 4 + [
        ("other", "nothing"),
        (None, "nothing"),
    ]


def test_a_sphere_has_one_radius() -> None:
    model = prepared("resnet18")
    x = torch.full_like(pictures(model, 1), 128 / 255)
    queries = course(model, x, "sphere", Goal(0), points=12, radius=1.5).queries
    distances = torch.cat([length(query.images - x).flatten() for query in queries])
    assert len(distances) == 12
    assert distances.tolist() == pytest.approx([1.5] * 12, rel=1e-4)


def test_changes_of_zero_change_nothing() -> None:
    x = torch.rand(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows, pull = InputTransform(eot=STILL).apply(x, MethodContext(0), 0)
    assert torch.allclose(rows, x.repeat_interleave(3, 0), atol=1e-12)
    weights = torch.randn(rows.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(pull(weights), weights.view(2, 3, 3, 8, 10).mean(1), atol=1e-12)


def test_random_changes_are_what_they_say() -> None:
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    views = eot(image, MethodContext(1), 0, **{**STILL, "brightness": 0.2})
    shifts = (views.view(2, 3, 3, 8, 8) - image[:, None])[:, :, :, 2:6, 2:6]
    inside = (views > 0) & (views < 1)
    assert shifts.abs().max() <= 0.2 + 1e-6
    assert inside.any()
    assert not torch.allclose(views[0], views[1])
    assert torch.equal(views, eot(image, MethodContext(1), 0, **{**STILL, "brightness": 0.2}))
    middle = torch.zeros(1, 3, 9, 9)
    middle[..., 4, 4] = 1
    turned = eot(middle, MethodContext(2), 0, **{**STILL, "rotation": 180.0})
    assert turned[..., 4, 4].min() > 0.9, "the middle stays where it is"


def test_an_adaptive_attack_sees_through_every_defence() -> None:
    model, x = inputs("trained-resnet20", 1)
    x = whole(x)
    for transform in (
        InputTransform(defence="jpeg", parameters={"quality": 60}),
        InputTransform(defence="blur", parameters={"sigma": 0.8}),
    ):
        rows, pull = transform.apply(x, MethodContext(0), 0)
        assert torch.equal(rows, transform.rows_to_judge(x, MethodContext(0)).detach())
        assert not torch.equal(rows, x)
        grad = pull(torch.ones_like(rows))
        if transform.defence == "jpeg":
            assert torch.equal(grad, torch.ones_like(x)), "straight through"
    noisy = InputTransform(defence="noise", parameters={"std": 0.1})
    rows, _ = noisy.apply(x, MethodContext(0), 0)
    assert len(rows) == noisy.views
    assert (rows - x).std().item() == pytest.approx(0.1, rel=0.05)
    (found,) = attacked(
        model, x, "pgd", transform=InputTransform(defence="bit_depth", parameters={"bits": 3}), adaptive=True
    )
    assert found.first_success is not None


def test_a_blur_pulls_gradients_back_exactly() -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    transform = InputTransform(defence="blur", parameters={"sigma": 1.2})
    weights = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows, pull = transform.apply(x, MethodContext(0), 0)
    step = 1e-3 * torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    there, _ = transform.apply(x + step, MethodContext(0), 0)
    assert ((there - rows) * weights).sum().item() == pytest.approx((pull(weights) * step).sum().item(), rel=1e-9)


def test_a_sticker_lies_within_the_picture_and_covers_its_area() -> None:
    x, sticker = torch.zeros(1, 3, 40, 60), torch.ones(1, 3, 12, 12)
    for rotation in (0.0, 180.0):
        images = placed(sticker, x, 16, rotation, np.random.default_rng(0))
        areas = images[:, 0].sum((1, 2))
        assert ((areas - 144).abs() < 15).all()
        assert images[:, :, 0].sum() + images[:, :, -1].sum() < images.sum() / 4
    assert len({tuple(image.flatten().tolist()) for image in images}) == 16


def test_the_kinds_of_corruption_are_the_modules() -> None:
    assert set(get_args(Kind)) == set(KINDS)
