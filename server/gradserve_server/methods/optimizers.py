"""Optimizers in step form: each gets the loss and the gradient at the current place and returns the next place.

Parameters are batches [n, ...] whose rows are independent of each other. All of them minimise.
"""

from collections import deque
from typing import Protocol

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8
MAX_PAIRS = 20  # L-BFGS remembers this many pairs of a move and the gradient's change along it.
MIN_COSINE = 1e-8  # A pair is kept only where the cosine between its two is larger.
# The backtracking of L-BFGS: c and rho of Nocedal & Wright 2006, algorithm 3.1, and the most halvings of a step.
DECREASE_SHARE, STEP_FACTOR, MAX_HALVINGS = 1e-4, 0.5, 10


class Optimizer(Protocol):
    """What a long method needs of an optimizer."""

    def step(self, at: Tensor, grad: Tensor, loss: Tensor, rate: float) -> Tensor:
        """The next place, given loss [n] and gradient at this one."""
        ...

    def best(self, at: Tensor) -> Tensor:
        """The place to return at the end; `at` is the one that would be evaluated next."""
        ...


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1)."""

    def __init__(self, betas: tuple[float, float] = BETAS) -> None:
        self._betas = betas
        self._steps = 0
        self._mean: Tensor | float = 0.0
        self._square: Tensor | float = 0.0

    def step(self, at: Tensor, grad: Tensor, loss: Tensor, rate: float) -> Tensor:
        """One update."""
        first, second = self._betas
        self._steps += 1
        self._mean = first * self._mean + (1 - first) * grad
        self._square = second * self._square + (1 - second) * grad.square()
        mean = self._mean / (1 - first**self._steps)
        square = self._square / (1 - second**self._steps)
        return at - rate * mean / (square.sqrt() + EPSILON)

    def best(self, at: Tensor) -> Tensor:
        """The newest place."""
        return at


class Descent:
    """Along the gradient, either as it is or divided by its mean absolute value (as DeepDream does)."""

    def __init__(self, *, normalized: bool) -> None:
        self._normalized = normalized

    def step(self, at: Tensor, grad: Tensor, loss: Tensor, rate: float) -> Tensor:
        """One update."""
        if self._normalized:
            size = grad.flatten(1).abs().mean(1).clamp_min(torch.finfo(grad.dtype).tiny)
            grad = grad / size.view(-1, *[1] * (grad.dim() - 1))
        return at - rate * grad

    def best(self, at: Tensor) -> Tensor:
        """The newest place."""
        return at


class LBFGS:
    """L-BFGS for one row: two-loop recursion (Nocedal & Wright 2006, algorithm 7.4) with backtracking.

    One evaluation is one step; one that does not lower the loss enough is tried again nearer to the last good place.
    """

    def __init__(self, history: int = MAX_PAIRS) -> None:
        self._pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=history)
        self._place: tuple[Tensor, Tensor, Tensor] | None = None  # The accepted place, its gradient and its loss.
        self._direction = torch.zeros(())
        self._step_size = 0.0
        self._halvings = 0

    def step(self, at: Tensor, grad: Tensor, loss: Tensor, rate: float) -> Tensor:
        """The next place to evaluate."""
        if self._place is not None:
            here, slope, value = self._place
            move = at - here
            if not bool(loss <= value + DECREASE_SHARE * (slope * move).sum()):
                return self._backtrack(rate)
            change = grad - slope
            if bool((change * move).sum() > MIN_COSINE * change.norm() * move.norm()):
                self._pairs.append((move, change))
        self._place = (at, grad, loss)
        return self._start_line_search(rate)

    def best(self, at: Tensor) -> Tensor:
        """The last place whose loss was accepted."""
        return at if self._place is None else self._place[0]

    def _start_line_search(self, rate: float) -> Tensor:
        assert self._place is not None
        at, grad, _ = self._place
        self._direction = -self._inverse_hessian_times(grad)
        if not self._pairs:
            rate = rate * min(1.0, 1 / float(grad.abs().sum()))
        self._step_size, self._halvings = rate, 0
        return at + self._step_size * self._direction

    def _backtrack(self, rate: float) -> Tensor:
        assert self._place is not None
        self._halvings += 1
        if self._halvings > MAX_HALVINGS:
            self._pairs.clear()
            return self._start_line_search(rate)
        self._step_size *= STEP_FACTOR
        return self._place[0] + self._step_size * self._direction

    def _inverse_hessian_times(self, grad: Tensor) -> Tensor:
        q, alphas = grad, []
        for move, change in reversed(self._pairs):
            alphas.append((move * q).sum() / (move * change).sum())
            q = q - alphas[-1] * change
        if self._pairs:
            move, change = self._pairs[-1]
            q = q * ((move * change).sum() / change.square().sum())
        for (move, change), alpha in zip(self._pairs, reversed(alphas), strict=True):
            q = q + (alpha - (change * q).sum() / (move * change).sum()) * move
        return q
