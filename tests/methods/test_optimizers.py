"""The optimizers in step form against torch's own."""

from itertools import pairwise

import torch
from torch import Tensor

from gradserve_server.methods.optimizers import LBFGS, Adam, Descent


def valley(x: Tensor) -> Tensor:
    """Rosenbrock's function of [1, n], shallow enough for full steps."""
    return (5 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def bowl(x: Tensor) -> Tensor:
    """A quadratic with different curvatures."""
    return (x**2 * torch.linspace(0.3, 0.6, x.shape[1], dtype=x.dtype)).sum(1)


def evaluated(function, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    loss = function(x)
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


def start(rows: int = 1) -> Tensor:
    return torch.randn(rows, 24, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_adam_is_torchs_adam_for_every_row() -> None:
    x, theirs = start(3), torch.nn.Parameter(start(3))
    ours, reference = Adam((0.9, 0.99)), torch.optim.Adam([theirs], lr=0.05, betas=(0.9, 0.99))
    for _ in range(25):
        loss, grad = evaluated(valley, x)
        x = ours.step(x, grad, loss, 0.05)
        reference.zero_grad()
        valley(theirs).sum().backward()
        reference.step()
    assert (x - theirs).abs().max() < 1e-12
    assert ours.best(x) is x


def test_lbfgs_is_torchs_lbfgs_while_its_steps_are_good() -> None:
    x, theirs = start(), torch.nn.Parameter(start())
    reference = torch.optim.LBFGS([theirs], lr=1, max_iter=1, history_size=5, tolerance_grad=0, tolerance_change=0)
    ours, losses = LBFGS(history=5), []

    def closure() -> Tensor:
        reference.zero_grad()
        loss = bowl(theirs).sum()
        loss.backward()
        return loss

    for _ in range(8):
        loss, grad = evaluated(bowl, x)
        losses.append(loss.item())
        x = ours.step(x, grad, loss, 1.0)
        reference.step(closure)
        assert (x - theirs).abs().max() < 1e-10
    assert losses == sorted(losses, reverse=True)  # Otherwise backtracking would have parted them.
    assert losses[-1] < 1e-3 * losses[0]


def test_lbfgs_takes_back_steps_that_are_too_long() -> None:
    def steep(x: Tensor) -> Tensor:
        return valley(x) + (x**4).sum(1)

    x, optimizer, losses = 3 * start(), LBFGS(), []
    for _ in range(200):
        loss, grad = evaluated(steep, x)
        losses.append(loss.item())
        x = optimizer.step(x, grad, loss, 1.0)
    theirs = torch.nn.Parameter(3 * start())
    reference = torch.optim.LBFGS([theirs], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        reference.zero_grad()
        loss = steep(theirs).sum()
        loss.backward()
        return loss

    reference.step(closure)
    assert any(b > a for a, b in pairwise(losses))
    assert steep(optimizer.best(x)).item() == min(losses)
    assert min(losses) < steep(theirs).item() + 1e-3


def test_descent() -> None:
    x = start(2)
    loss, grad = evaluated(valley, x)
    assert torch.equal(Descent(normalized=False).step(x, grad, loss, 0.1), x - 0.1 * grad)
    moved = x - Descent(normalized=True).step(x, grad, loss, 0.1)
    for row, slope in zip(moved, grad, strict=True):
        assert torch.allclose(row, 0.1 * slope / slope.abs().mean())
    still = Descent(normalized=True).step(x, torch.zeros_like(x), loss, 0.1)
    assert torch.equal(still, x)
