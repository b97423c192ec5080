"""Attacks within a mask: what lies outside stays bit for bit, and what lies inside is attacked as it should be."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import in_engine_layout
from torch import Tensor, nn
from zoo import in_double, inputs, pictures, prepared

from gradserve_server.engine.job import MethodContext
from gradserve_server.methods.attack import METHODS, Attacked, Ball, Goal, GoalSpec
from gradserve_server.methods.attack.ball import Norm, length
from gradserve_server.methods.attack.input_transform import InputTransform, eot
from gradserve_server.methods.attack.square import _window
from gradserve_server.methods.parameters import bind
from gradserve_server.models.prepared import Prepared

from .attacks import attacked, course, label_of, whole
from .test_attack import SHORT as SHORT_CALLS

TAKERS = [(name, norm) for name, method in METHODS.items() if method.mask for norm in method.norms]
# The gradients of random weights are small, so that plain ascent takes long steps.
SHORT = SHORT_CALLS | {"gradient_ascent": {"steps": 3, "rate": 300.0}}
EPS = {"linf": 8 / 255, "l2": 1.0}
JPEG = {"transform": InputTransform(defence="jpeg", parameters={"quality": 60}), "adaptive": True}
EOT = {"transform": InputTransform(eot=bind(eot, {"samples": 2}))}


def quadrant(x: Tensor) -> np.ndarray:
    """A mask of the upper left quarter of pictures [n, 3, H, W]."""
    height, width = x.shape[2:]
    mask = np.zeros((height, width), bool)
    mask[: height // 2, : width // 2] = True
    return mask


def ball_of(method: str, norm: Norm, mask: np.ndarray) -> Ball:
    return Ball(norm, EPS[norm] if METHODS[method].bounded else None, mask)


def levels(x: Tensor) -> np.ndarray:
    """One picture [1, 3, H, W] in whole levels, [H, W, 3]."""
    return (x[0] * 255).round().permute(1, 2, 0).numpy().astype(int)


def check(found: Attacked, x: Tensor, mask: np.ndarray) -> None:
    change = found.pixels.astype(int) - levels(x)
    assert not change[~mask].any(), "outside of the mask"
    assert change[mask].any(), "inside of the mask"


WAYS: dict[str, dict[str, object]] = {"plain": {}, "stop": {"stop": True}, "jpeg": JPEG, "eot": EOT}
CASES = [(*taker, way) for taker in TAKERS for way in WAYS if way != "eot" or METHODS[taker[0]].uses == "gradients"]


@pytest.mark.parametrize(("method", "norm", "way"), CASES)
def test_the_rest_of_the_picture_stays_bit_for_bit(method: str, norm: Norm, way: str) -> None:
    model = prepared("resnet18")
    x = whole(pictures(model, 1))
    ball = ball_of(method, norm, quadrant(x))
    (found,) = attacked({"model": model, "other": model}, x, method, ball=ball, **SHORT[method], **WAYS[way])
    check(found, x, quadrant(x))
    distance = np.linalg.norm((found.pixels.astype(int) - levels(x)) / 255)
    assert norm == "linf" or not METHODS[method].bounded or 0.5 * EPS["l2"] < distance <= EPS["l2"] + 1e-6


@pytest.mark.parametrize(("method", "norm"), TAKERS)
def test_no_picture_on_the_way_changes_outside(method: str, norm: Norm) -> None:
    model = prepared("resnet18")
    x = whole(pictures(model, 1))
    outside = torch.from_numpy(~quadrant(x))
    queries = course(
        model, x, method, Goal(label_of(model, x)), ball_of(method, norm, quadrant(x)), **SHORT[method]
    ).queries
    assert len(queries) >= 2
    for query in queries:
        assert torch.equal(query.images[..., outside], x[..., outside].expand_as(query.images[..., outside]))
    assert not torch.equal(queries[-1].images[-1:], x)


def masked_pgd(model: Prepared, x: Tensor, label: int, ball: Ball, step: float, steps: int) -> Tensor:
    """PGD whose steps are multiplied by the mask, written down in plain torch."""
    mask = torch.from_numpy(ball.mask).to(x)
    adv = x.clone()
    for _ in range(steps):
        leaf = adv.clone().requires_grad_()
        loss = F.cross_entropy(model(in_engine_layout(leaf)), torch.tensor([label]))
        grad = torch.autograd.grad(loss, leaf)[0] * mask
        change = adv + step * (grad.sign() if ball.norm == "linf" else grad / grad.norm()) - x
        size = change.abs().max() if ball.norm == "linf" else change.norm()
        if ball.norm == "linf":
            change = change.clamp(-ball.eps, ball.eps)
        elif size > ball.eps:
            change = change / size * ball.eps
        adv = (x + change).clamp(0, 1)
    return adv


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_that_of_a_plain_loop_with_the_mask(norm: Norm) -> None:
    model = in_double("trained-resnet20")
    x = whole(pictures(model, 1).double())
    ball, label = Ball(norm, EPS[norm], quadrant(x)), label_of(model, x)
    ours = course(model, x, "pgd", Goal(label), ball, steps=5, step=0.3, random_start=False).queries[-1].images
    theirs = masked_pgd(model, x, label, ball, 0.3 * EPS[norm], 5)
    assert (ours - theirs).abs().max() < (1e-12 if norm == "linf" else 1e-9)
    assert (ours - x).abs().max() > 0.01, "it went somewhere"


@pytest.mark.parametrize("method", ["pgd", "square"])
def test_a_masked_attack_is_the_same_alone_and_in_company(method: str) -> None:
    model = prepared("resnet18")
    images = whole(pictures(model, 3))
    ball = Ball("linf", EPS["linf"], quadrant(images))
    together = attacked(model, images, method, ball=ball, seed=7, **SHORT[method])
    for x, other in zip(images.split(1), together, strict=True):
        (one,) = attacked(model, x, method, ball=ball, seed=7, **SHORT[method])
        different = np.abs(one.pixels.astype(int) - other.pixels.astype(int)) > 1
        assert different.mean() < 0.01, "rounding may turn the sign of a few tiny gradients"
        check(other, x, quadrant(x))


def test_a_mask_of_all_pixels_changes_nothing_of_the_attack() -> None:
    model, x = inputs("trained-resnet20", 1)
    x = whole(x)
    everything = np.ones(x.shape[2:], bool)
    for method in ("pgd", "apgd", "square"):
        for norm in METHODS[method].norms:
            plain, masked = (
                attacked(model, x, method, ball=Ball(norm, EPS[norm], mask), **SHORT[method])[0]
                for mask in (None, everything)
            )
            assert np.array_equal(plain.pixels, masked.pixels)


def test_directions_and_starts_have_the_length_of_the_change_inside() -> None:
    grad = torch.randn(3, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    mask = quadrant(grad)
    ball = Ball("l2", 0.5, mask)
    direction = ball.direction(grad)
    assert not direction[..., torch.from_numpy(~mask)].any()
    assert length(direction).flatten().tolist() == pytest.approx([1] * 3)
    x = torch.full((1, 3, 8, 10), 0.5)
    far = ball.project(x + 10 * grad, x) - x
    assert length(far).flatten().tolist() == pytest.approx([0.5] * 3)
    distances = [float(MethodContext(3).noise(4 + i, x[:, :1, :1, :1], uniform=True)) for i in range(4)]
    starts = length(ball.random(x, MethodContext(3), 4) - x).flatten().tolist()
    assert starts == pytest.approx([0.5 * r for r in distances])


def test_the_squares_of_a_box_are_those_of_the_picture_in_it() -> None:
    x = torch.zeros(1, 3, 20, 30)
    mask = np.zeros((20, 30), bool)
    mask[4:16, 10:25] = True
    for area in (0.8, 0.3, 0.05, 0.001):
        ours = [_window(x, Ball("linf", 0.1, mask), area, np.random.default_rng(seed)) for seed in range(20)]
        theirs = [
            _window(x[..., 4:16, 10:25], Ball("linf", 0.1), area, np.random.default_rng(seed)) for seed in range(20)
        ]
        for (rows, columns), (own_rows, own_columns) in zip(ours, theirs, strict=True):
            assert (rows.start, rows.stop) == (own_rows.start + 4, own_rows.stop + 4)
            assert (columns.start, columns.stop) == (own_columns.start + 10, own_columns.stop + 10)


@pytest.mark.parametrize("places", [[(0, 0), (19, 29)], [(7, 3)], [(5, column) for column in range(0, 30, 3)]])
def test_every_square_meets_the_mask(places: list[tuple[int, int]]) -> None:
    x, mask, rng = torch.zeros(1, 3, 20, 30), np.zeros((20, 30), bool), np.random.default_rng(0)
    mask[tuple(np.transpose(places))] = True
    held = np.zeros_like(mask)
    for area in (0.8, 0.1, 0.01, 0.0005):
        for _ in range(100):
            window = _window(x, Ball("linf", 0.1, mask), area, rng)
            assert mask[window].any()
            held[window] = True
    assert (held & mask).sum() == len(places), "each of its pixels has its turn"


class _LeftHalf(nn.Module):
    """A network that sees the left half alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(torch.cat([x[..., : x.shape[3] // 2], torch.zeros_like(x[..., x.shape[3] // 2 :])], 3))


@pytest.mark.parametrize(
    ("method", "extra", "code"),
    [("pgd", {}, "ZERO_GRADIENT"), ("pgd", JPEG, "ZERO_GRADIENT"), ("square", {}, "FLAT_LOSS")],
    ids=["pgd", "jpeg", "square"],
)
def test_a_mask_where_the_network_sees_nothing_is_told(method: str, extra: dict[str, object], code: str) -> None:
    network, x = inputs("trained-resnet20", 1)
    model, x = replace(network, network=_LeftHalf(network.network)), whole(x)
    for left in (True, False):
        mask = np.zeros(x.shape[2:], bool)
        mask[:, :16] = left
        mask[:, 16:] = not left
        spec = GoalSpec(loss="margin", target=(label_of(model, x) + 1) % 10)
        facts = {"queries": 20} if method == "square" else SHORT[method]  # Rounding tells batches of two sizes apart.
        (found,) = attacked(model, x, method, spec, Ball("linf", 1 / 255, mask), **facts, **extra)
        assert [text.split(":")[0] for text in found.warnings] == ([] if left else [code])
        assert left or found.first_success is None
