"""FAB: its projections are exact, its steps are the reference's, and only finds within the budget count."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torchattacks
from reference import Wrapped
from scipy.optimize import linprog, minimize
from torch import Tensor
from torchattacks.attacks.fab import projection_l2, projection_linf
from zoo import in_double, inputs, photos

from gradserve_server.methods.attack import Ball, Goal
from gradserve_server.methods.attack.fab import fab_step, to_hyperplane

from .attacks import attacked, course, label_of, whole


def planes(count: int, size: int = 6) -> list[tuple[Tensor, Tensor, float]]:
    """Random points of the unit box with planes, some of which miss the box."""
    rng = np.random.default_rng(0)
    cases = []
    for i in range(count):
        point, normal = rng.random(size), rng.normal(size=size)
        point[rng.random(size) < 0.3] = rng.integers(0, 2)
        normal[rng.random(size) < 0.2] = 0
        normal[0] = 1.0
        level = float(normal @ rng.random(size)) + (i % 4 == 0) * float(rng.normal())
        cases.append((torch.from_numpy(point), torch.from_numpy(normal), level))
    return cases


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_moves_to_a_plane_within_the_box_are_the_shortest(norm: str) -> None:
    reached = 0
    for point, normal, level in planes(60):
        move = to_hyperplane(point, normal, level, norm).numpy()
        z, w = point.numpy(), normal.numpy()
        assert ((z + move >= -1e-12) & (z + move <= 1 + 1e-12)).all()
        lowest, highest = np.minimum(w, 0).sum(), np.maximum(w, 0).sum()
        if not lowest <= level <= highest:
            corner = np.where(w > 0, float(level > highest), np.where(w < 0, float(level < lowest), z))
            assert z + move == pytest.approx(corner)
            continue
        reached += 1
        assert w @ (z + move) == pytest.approx(level, abs=1e-9)
        if norm == "linf":  # A linear programme over the move and a bound of its elements.
            bound = np.abs(move).max()
            eye, ones = np.eye(len(z)), -np.ones((len(z), 1))
            best = linprog(
                [*np.zeros(len(z)), 1],
                A_ub=np.block([[eye, ones], [-eye, ones]]),
                b_ub=np.zeros(2 * len(z)),
                A_eq=[[*w, 0]],
                b_eq=[level - w @ z],
                bounds=[*zip(-z, 1 - z, strict=True), (0, None)],
            )
            assert bound == pytest.approx(best.fun, abs=1e-8)
        else:
            missing = lambda d, w=w, z=z, level=level: w @ (z + d) - level  # noqa: E731
            best = minimize(
                lambda d: d @ d,
                move * 0,
                jac=lambda d: 2 * d,
                bounds=list(zip(-z, 1 - z, strict=True)),
                constraints={"type": "eq", "fun": missing, "jac": lambda d, w=w: w},
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 500},
            )
            assert best.success
            assert move == pytest.approx(best.x, abs=1e-5)
    assert reached > 30, "or this test would prove nothing"


@pytest.mark.parametrize(("norm", "theirs"), [("linf", projection_linf), ("l2", projection_l2)])
def test_moves_to_a_plane_are_the_reference_implementations(norm: str, theirs: object) -> None:
    for point, normal, level in planes(40, 300):
        move = to_hyperplane(point, normal, level, norm)
        wanted = theirs(point[None], normal[None], torch.tensor([level], dtype=torch.float64))[0]
        assert (move - wanted).abs().max() < 1e-6


class Recorded(Wrapped):
    """Keeps every picture that it is asked about."""

    def forward(self, x: Tensor) -> Tensor:
        self.__dict__.setdefault("seen", []).append(x.detach().clone())
        return super().forward(x)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torchattacks computes in float64, where no rounding turns the sign of a small gradient."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("ball", [Ball("linf", 1e-4), Ball("l2", 1e-3)], ids=["linf", "l2"])
@pytest.mark.usefixtures("double")
def test_iterates_are_those_of_torchattacks(ball: Ball) -> None:
    """Towards the runner-up, in float64; with a budget that allows nothing, both take all their steps."""
    model, steps = in_double("trained-resnet20"), 8
    for x in whole(photos(model, 5)).split(1):
        label = label_of(model, x)
        queries = course(model, x, "fab_targeted", Goal(label, loss="margin"), ball, steps=steps, classes=1).queries
        network = Recorded(model)
        facts = {
            "norm": {"linf": "Linf", "l2": "L2"}[ball.norm],
            "eps": ball.eps,
            "steps": steps,
            "n_classes": 2,
            "multi_targeted": True,
        }
        torchattacks.FAB(network, **facts)(x, torch.tensor([label]))
        wanted = network.seen[3 : 3 + 2 * steps]  # Before, it asks three times about x.
        assert len(queries) == 1 + 2 * steps
        for number, (query, image) in enumerate(zip(queries[1:], wanted, strict=True)):
            assert (query.images - image).abs().max() < 1e-6, f"query {number}"
        assert (queries[-1].images - x).abs().max() > 1e-4, "it went somewhere"


def test_a_step_goes_to_the_boundary_of_a_linear_model() -> None:
    """From the original itself, a linear gap of logits is closed and overshot by a twentieth."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(1, 3, 5, 5, generator=generator, dtype=torch.float64)
    normal = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    for norm in ("linf", "l2"):
        after = fab_step(x, x, normal, -0.7, norm)
        assert float((normal * (after - x)).sum()) == pytest.approx(1.05 * 0.7)
        change = (after - x).flatten()
        shortest = 0.7 / (normal.abs().sum() if norm == "linf" else normal.norm())
        length = change.abs().max() if norm == "linf" else change.norm()
        assert float(length) == pytest.approx(1.05 * float(shortest))


@pytest.mark.parametrize(("norm", "eps"), [("linf", 2 / 255), ("l2", 0.4)])
def test_only_what_is_found_within_the_budget_counts(norm: str, eps: float) -> None:
    model, x = inputs("trained-resnet20", 2)
    x = whole(x)
    facts = {"steps": 15, "classes": 2, "stop": True}
    wide = attacked(model, x, "fab_targeted", ball=Ball(norm, eps), **facts)
    narrow = attacked(model, x, "fab_targeted", ball=Ball(norm, eps / 20), **facts)
    assert [found.first_success is None for found in wide] == [False, False]
    assert [found.first_success for found in narrow] == [None, None]
    for found, image in zip([*wide, *narrow], [*x, *x], strict=True):
        change = torch.from_numpy(found.pixels).permute(2, 0, 1) / 255 - image
        assert found.ball.holds(round(float(change.abs().max()) * 255) / 255, float(change.norm()) - 1e-6)
    assert [found.gradients for found in narrow] == [30, 30]
