"""The last layer's influence against refits of the same regression, by Newton's method in float64."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from zoo import off

from gradserve_server.methods.influence import regression
from gradserve_server.methods.influence.index import Index, softened
from gradserve_server.methods.influence.indexing.build import Builder
from gradserve_server.methods.influence.indexing.plan import IndexPlan
from gradserve_server.models.embedded.digits.data import parts
from gradserve_server.offline import training

from . import small
from .test_projected import asked, changes

N, TESTS, CLASSES = 1000, 4, 10


@cache
def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels of digits as features, [1000, 64] and the hardest tests, and the labels."""
    x, x_test, y, y_test = (torch.from_numpy(part) for part in parts())
    theta = fitted(x[:N] / 16, y[:N], 1e-2)
    hardest = F.cross_entropy(outputs(theta, x_test / 16), y_test, reduction="none").argsort(descending=True)[:TESTS]
    return x[:N] / 16, x_test[hardest] / 16, y[:N], y_test[hardest]


@cache
def fit_of(decay: float) -> tuple[Tensor, Tensor]:
    """The weights [C, F + 1] of all examples, and the Cholesky factor of their Hessian."""
    h, _, y, _ = problem()
    theta = fitted(h, y, decay)
    return theta, torch.linalg.cholesky(hessian(theta, h, torch.ones(N, dtype=torch.float64), decay))


def fitted(h: Tensor, y: Tensor, decay: float) -> Tensor:
    """By Newton's method from zero."""
    theta, ones = torch.zeros(CLASSES, h.shape[1] + 1, dtype=torch.float64), torch.ones(len(h), dtype=torch.float64)
    for _ in range(30):
        slope = gradient(theta, h, y, ones, decay)
        theta = theta - torch.linalg.solve(hessian(theta, h, ones, decay), slope.flatten()).view_as(theta)
        if slope.abs().max() < 1e-11:
            return theta
    raise AssertionError("no convergence")


def refit(weights: Tensor, decay: float) -> Tensor:
    """argmin of sum w_i l_i / N + decay / 2 |theta|^2, from that of all examples, whose Hessian is close enough."""
    h, _, y, _ = problem()
    theta, factor = fit_of(decay)
    for _ in range(500):
        slope = gradient(theta, h, y, weights, decay)
        if slope.abs().max() < 1e-11:
            return theta
        theta = theta - torch.cholesky_solve(slope.reshape(-1, 1), factor).view_as(theta)
    raise AssertionError("no convergence")


def outputs(theta: Tensor, h: Tensor) -> Tensor:
    return h @ theta[:, :-1].T + theta[:, -1]


def with_one(h: Tensor) -> Tensor:
    return torch.cat([h, torch.ones(len(h), 1, dtype=torch.float64)], 1)


def gradient(theta: Tensor, h: Tensor, y: Tensor, weights: Tensor, decay: float) -> Tensor:
    residuals = outputs(theta, h).softmax(1) - F.one_hot(y, CLASSES)
    return (residuals * weights[:, None]).T @ with_one(h) / len(h) + decay * theta


def hessian(theta: Tensor, h: Tensor, weights: Tensor, decay: float) -> Tensor:
    p, rows = outputs(theta, h).softmax(1), with_one(h)
    out = torch.zeros(CLASSES, rows.shape[1], CLASSES, rows.shape[1], dtype=torch.float64)
    for a in range(CLASSES):
        for b in range(CLASSES):
            curved = weights * p[:, a] * (float(a == b) - p[:, b]) / len(h)
            out[a, :, b] = rows.T @ (rows * curved[:, None])
    out = out.view(theta.numel(), -1)
    out.diagonal().add_(decay)
    return out


def tools_of(decay: float) -> tuple[Any, regression.Regression]:
    """The index's part, and what is under test."""
    index = Fixed(problem()[0], problem()[2], fit_of(decay)[0])
    soft = softened(index.columns["label"], CLASSES, 0.0)
    return index, regression.fit(index.features, index.residuals, soft, decay, alone=True)


def loss_at(theta: Tensor, h: Tensor, y: Tensor) -> float:
    return float(F.cross_entropy(outputs(theta, h[None]), y[None]))


class Fixed:
    """What the regression reads of an index, kept in memory."""

    def __init__(self, h: Tensor, y: Tensor, theta: Tensor) -> None:
        soft = softened(y.numpy(), CLASSES, 0.0)
        self.features, self.residuals = h.numpy(), outputs(theta, h).softmax(1).numpy() - soft
        self.columns = {"label": y.numpy()}
        self.manifest = type("Manifest", (), {"classes": CLASSES, "label_smoothing": 0.0})()

    def __len__(self) -> int:
        return len(self.features)

    def chunks(self) -> list[slice]:
        return [slice(0, 90), slice(90, N)]


@pytest.mark.parametrize(("decay", "pearson"), [(1e-2, 0.999), (1e-3, 0.98)])
def test_left_out_examples(decay: float, pearson: float) -> None:
    _, tests, _, labels = problem()
    index, tools = tools_of(decay)
    assert (tools.exact, tools.damping) == (True, decay)
    theta, rows = fit_of(decay)[0], np.arange(0, N, 20)
    without = [refit(1 - F.one_hot(torch.tensor(row), N).double(), decay) for row in rows]
    for point, label in zip(tests, labels, strict=True):
        logits = outputs(theta, point[None])[0].requires_grad_()
        before = F.cross_entropy(logits[None], label[None])
        responses = tools.responses(point)
        first = tools.removals(index, responses, torch.autograd.grad(before, logits)[0])[rows]
        steps = [logits.detach() + tools.newton(index, responses, rows[i : i + 1], -1.0) for i in range(len(rows))]
        newton = np.array([float(F.cross_entropy(each[None], label[None])) for each in steps]) - before.item()
        truth = np.array([loss_at(each, point, label) for each in without]) - before.item()
        assert np.corrcoef(first, truth)[0, 1] > pearson
        assert np.corrcoef(newton, truth)[0, 1] > np.corrcoef(first, truth)[0, 1]
        assert np.abs(newton - truth).sum() < 0.5 * np.abs(first - truth).sum()  # The sizes are nearer too.


@pytest.mark.parametrize("weight", [-1.0, 2.0])
def test_a_groups_newton_step_is_that_of_the_changed_objective(weight: float) -> None:
    h, tests, y, _ = problem()
    index, tools = tools_of(1e-2)
    theta, rows = fit_of(1e-2)[0], np.arange(0, 90, 3)
    weights = torch.ones(N, dtype=torch.float64)
    weights[rows] += weight
    slope = gradient(theta, h, y, weights, 1e-2)
    moved = -torch.linalg.solve(hessian(theta, h, weights, 1e-2), slope.flatten()).view_as(theta)
    truth = outputs(moved, tests[:1])[0]
    ours = tools.newton(index, tools.responses(tests[0]), rows, weight)
    assert off(ours, truth - truth.mean()) < 1e-6  # Only differences of logits have a meaning.


def test_norms_are_those_of_the_dense_hessian() -> None:
    h, _, y, _ = problem()
    index, tools = tools_of(1e-2)
    own, moved = tools.norms(index.features, index.residuals)
    theta, factor = fit_of(1e-2)
    residuals = outputs(theta, h).softmax(1) - F.one_hot(y, CLASSES)
    gradients = torch.einsum("nc,nf->ncf", residuals, with_one(h)).flatten(1)
    solved = torch.cholesky_solve(gradients.T, factor).T
    assert off(own, (gradients * solved).sum(1)) < 1e-5
    assert off(moved, solved.norm(dim=1) / N) < 1e-5


def test_features_that_were_scaled_for_the_training() -> None:
    h, tests, y, _ = problem()
    weights, scale = training.head(h, y, CLASSES, 1e-2)
    assert (h * scale).square().sum(1).mean().item() == pytest.approx(training.SQUARED_NORM)
    scaled = torch.cat([weights[:, :-1] / scale, weights[:, -1:]], 1)
    assert gradient(scaled, h * scale, y, torch.ones(N, dtype=torch.float64), 1e-2).abs().max() < 1e-7
    soft, slope = softened(y.numpy(), CLASSES, 0.0), torch.linspace(-1, 1, CLASSES, dtype=torch.float64)
    found = []
    for theta, features, point, kept in (
        (weights, h, tests[0], scale),
        (scaled, h * scale, tests[0] * scale, 1.0),
    ):
        index: Any = Fixed(features, y, theta)
        tools = regression.fit(index.features, index.residuals, soft, 1e-2, alone=True, scale=kept)
        found.append(tools.removals(index, tools.responses(point), slope))
    assert off(found[0], found[1]) < 1e-5


def test_too_many_features_are_reduced() -> None:
    rng = np.random.default_rng(0)
    thin = rng.normal(size=(30, 60))  # Fewer examples than features lose nothing.
    basis, exact = regression.reduced_basis(thin, 50)
    assert (basis.shape, exact) == ((60, 30), True)
    assert np.allclose(thin @ basis.numpy() @ basis.numpy().T, thin)
    basis, exact = regression.reduced_basis(rng.normal(size=(300, 60)), 20)
    assert (basis.shape, exact) == ((60, 20), False)
    assert regression.fits(10, 512)
    assert not regression.fits(1000, 512)


def test_training_goes_to_the_end() -> None:
    h, _, y, _ = problem()
    assert off(training.logistic_regression(h, y, CLASSES, 1e-3), fit_of(1e-3)[0]) < 1e-5


def test_the_last_layer_of_a_network(tmp_path: Path) -> None:
    Builder(small.model(), small.examples(), small.ORIGIN, IndexPlan(small.DECAY, last_layer_only=True)).run(
        tmp_path / "i"
    )
    index = Index(tmp_path / "i")
    assert index.manifest.methods == ("last_layer", "neighbours")
    image = small.data()[1][4]
    first, same = (
        changes(tmp_path / "i", image, method="last_layer"),
        asked(tmp_path / "i", image, method="neighbours", top=3),
    )
    assert (first != 0).sum() > 40
    assert len(same.harmful) == 0
    assert same.scores[0] >= same.scores[-1] > 0.5
    assert small.data()[2][same.helpful[0]] == small.data()[3][4]
