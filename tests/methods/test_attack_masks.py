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
from gradserve_server.methods.attack.windows import onto_mask
from gradserve_server.methods.parameters import bind
from gradserve_server.models.prepared import Prepared

from .attacks import attacked, course, label_of, whole
from .test_attack import SHORT as SHORT_CALLS

TAKERS = [(name, norm) for name, method in METHODS.items() if method.mask for norm in ("linf", "l2")]
# The gradients of random weights are small, so that plain ascent takes long steps.
SHORT = {
    **SHORT_CALLS,
    "gradient_ascent": {"steps": 3, "rate": 300.0},
    "apgd_targeted": {"steps": 3, "classes": 2},
    "fab_targeted": {"steps": 4, "classes": 2},
    "ensemble": {"steps": 3, "classes": 2, "queries": 10},
    "malt": {"steps": 3, "classes": 2, "candidates": 4},
}
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
CASES = [
    (*taker, way)
    for taker in TAKERS
    for way in WAYS
    if way != "eot" or (METHODS[taker[0]].uses == "gradients" and METHODS[taker[0]].eot)
]


@pytest.mark.parametrize(("method", "norm", "way"), CASES)
def test_the_rest_of_the_picture_stays_bit_for_bit(method: str, norm: Norm, way: str) -> None:
    model = prepared("resnet18")
    x = whole(pictures(model, 1))
    ball = ball_of(method, norm, quadrant(x))
    (found,) = attacked({"model": model, "other": model}, x, method, ball=ball, **SHORT[method], **WAYS[way])
    if method == "fab_targeted":  # It seeks the nearest picture, which may be the original to a level.
        assert not (found.pixels.astype(int) - levels(x))[~quadrant(x)].any()
        return
    check(found, x, quadrant(x))
    distance = np.linalg.norm((found.pixels.astype(int) - levels(x)) / 255)
    assert norm == "linf" or not METHODS[method].bounded or 0.5 * EPS["l2"] < distance <= EPS["l2"] + 1e-6


# The steps of malt are those of apgd_targeted; it asks for several gradients at once before, which `course` does not.
@pytest.mark.parametrize(("method", "norm"), [taker for taker in TAKERS if taker[0] != "malt"])
def test_no_picture_on_the_way_changes_outside(method: str, norm: Norm) -> None:
    model = prepared("resnet18")
    x = whole(pictures(model, 1))
    outside = torch.from_numpy(~quadrant(x))
    queries = course(
        model, x, method, Goal(label_of(model, x)), ball_of(method, norm, quadrant(x)), **SHORT[method]
    ).queries
    assert len(queries) >= 2
    tolerance = 1e-6 if method in ("fab_targeted", "ensemble") else 0  # The mean of a pixel with itself is rounded.
    for query in queries:
        assert (query.images - x)[..., outside].abs().max() <= tolerance
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


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", ["fab_targeted", "malt", "ensemble"])
def test_attacks_that_try_classes_succeed_inside_a_mask(method: str, norm: Norm) -> None:
    model, x = inputs("trained-resnet20", 1)
    x, facts = whole(x), {} if method != "ensemble" else {"steps": 20, "queries": 20}
    mask = np.zeros(x.shape[2:], bool)
    mask[:, 12:] = True
    (found,) = attacked(model, x, method, ball=Ball(norm, 16 / 255 if norm == "linf" else 1.0, mask), **facts)
    assert found.first_success is not None
    assert found.gradients > 0
    check(found, x, mask)


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
        for norm in ("linf", "l2"):
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


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_squares_of_a_box_are_those_of_the_picture_in_it(norm: Norm) -> None:
    model = prepared("resnet18")
    x = whole(pictures(model, 1))
    mask = np.zeros(x.shape[2:], bool)
    mask[8:50, 10:70] = True
    cut = x[..., 8:50, 10:70]
    begun, whole_begun = (
        course(model, image, "square", Goal(0), Ball(norm, 0.1, within), queries=2).queries
        for image, within in ((cut, None), (x, mask))
    )
    for one, other in zip(begun, whole_begun, strict=True):
        assert torch.equal(one.images, other.images[..., 8:50, 10:70])


@pytest.mark.parametrize("places", [[(0, 0), (19, 29)], [(7, 3)], [(5, column) for column in range(0, 30, 3)]])
def test_every_square_meets_the_mask(places: list[tuple[int, int]]) -> None:
    mask, rng = np.zeros((20, 30), bool), np.random.default_rng(0)
    mask[tuple(np.transpose(places))] = True
    held = np.zeros_like(mask)
    for side in (16, 6, 3, 1):
        for _ in range(100):
            corner = rng.integers(0, 21 - side), rng.integers(0, 31 - side)
            top, left = onto_mask(*corner, side, mask, rng)
            window = slice(top, top + side), slice(left, left + side)
            assert mask[window].any()
            assert mask[window].shape == (side, side)
            assert (top, left) == corner or not mask[corner[0] : corner[0] + side, corner[1] : corner[1] + side].any()
            held[window] = True
    assert (held & mask).sum() == len(places), "each of its pixels has its turn"


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("places", [[(0, 0), (19, 29)], [(7, 3)], [(5, 4), (5, 5), (5, 6)]])
def test_square_takes_masks_of_few_pixels(norm: Norm, places: list[tuple[int, int]]) -> None:
    model = prepared("resnet18")
    x = whole(pictures(model, 1))
    mask = np.zeros(x.shape[2:], bool)
    mask[tuple(np.transpose(places))] = True
    queries = course(model, x, "square", Goal(label_of(model, x)), Ball(norm, 0.3, mask), queries=20).queries
    changes = torch.cat([query.images for query in queries]) - x
    assert not changes[..., torch.from_numpy(~mask)].any()
    # In L2 the signs of a new window of one pixel may undo those of the last one.
    assert changes.flatten(1).any(1).float().mean() > (0.5 if norm == "l2" else 0.99)
    assert length(changes, 2 if norm == "l2" else float("inf")).max() <= 0.3 + 1e-6


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
