"""Auto-PGD: the step size follows the progress (Croce, Hein 2020, algorithm 1)."""

import math

import torch
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ..parameters import Fraction, Iterations, Restarts
from .ball import Ball
from .oracle import Oracle

MOMENTUM = 0.75  # The paper's alpha.
# Periods between checkpoints, as shares of all steps: the first (p_1), the decrease of each next one, and the shortest.
FIRST_PERIOD, PERIOD_DECREASE, MIN_PERIOD = 0.22, 0.03, 0.06


def checkpoints(steps: int) -> list[int]:
    """The checkpoints w_1, w_2, ... <= steps: the steps after which the step size may be halved (section 3.1)."""
    before, here, points = 0.0, FIRST_PERIOD, []
    while math.ceil(round(here * steps, 9)) <= steps:  # The rounding is needed, since 0.41 * 100 is a little above 41.
        points.append(math.ceil(round(here * steps, 9)))
        before, here = here, here + max(here - before - PERIOD_DECREASE, MIN_PERIOD)
    return sorted(set(points))


def apgd(
    x: Tensor,
    oracle: Oracle,
    ball: Ball,
    run: MethodContext,
    *,
    steps: Iterations = 100,
    rho: Fraction = 0.75,
    restarts: Restarts = 1,
) -> Steps:
    """PGD with momentum; where too few steps climb it goes back to the best point and halves the step."""
    run.asked = steps
    yield from climb_from(ball.random(x, run, restarts), x, oracle, ball, run, steps, rho)


def climb_from(at: Tensor, x: Tensor, oracle: Oracle, ball: Ball, run: MethodContext, steps: int, rho: float) -> Steps:
    """Algorithm 1 from the starts `at`, [n, 3, H, W]."""
    progress, checked = ClimbState(at, 2 * (ball.eps or 0)), checkpoints(steps)
    before, momentum = at, 0.0
    for number in range(steps):
        evaluation = yield from oracle.climb(at, number)
        if oracle.done:
            return
        progress.follow(at, evaluation.value, evaluation.grad)
        grad = evaluation.grad
        if number in checked:
            period = number - max([0, *(w for w in checked if w < number)])
            at, grad = progress.back_where_stuck(at, grad, rho * period)
        z = ball.project(at + progress.rate * ball.direction(grad), x)
        after = ball.project(at + (1 - momentum) * (z - at) + momentum * (at - before), x)
        before, at, momentum = at, after, 1 - MOMENTUM
        run.completed(range(1))
    yield from oracle.scores(at, steps)


class ClimbState:
    """How far each start came: its best point, its step size, and how many steps climbed since the last checkpoint."""

    def __init__(self, start: Tensor, rate: float) -> None:
        self.rate = torch.full_like(start[:, :1, :1, :1], rate)
        self._best, self._grad = start, torch.zeros_like(start)
        self._best_value = torch.full_like(start[:, 0, 0, 0], -math.inf)
        # No value is above this, so that the first point does not count as a climb.
        self._last = torch.full_like(self._best_value, math.inf)
        self._climbed = torch.zeros_like(self._best_value)
        self._checkpoint_value = self._best_value
        self._checkpoint_halved = torch.zeros_like(self._best_value, dtype=torch.bool)

    def follow(self, at: Tensor, value: Tensor, grad: Tensor) -> None:
        """Compares the next points, their values and gradients with the best so far."""
        if torch.isinf(self._best_value).all():
            self._checkpoint_value = value
        self._climbed = self._climbed + (value > self._last)
        self._last = value
        better = value > self._best_value
        self._best_value = torch.where(better, value, self._best_value)
        self._best = torch.where(better.view(-1, 1, 1, 1), at, self._best)
        self._grad = torch.where(better.view(-1, 1, 1, 1), grad, self._grad)

    def back_where_stuck(self, at: Tensor, grad: Tensor, least: float) -> tuple[Tensor, Tensor]:
        """Points and gradients to continue from: the best ones, with half the step, where condition 1 or 2 holds."""
        few = self._climbed < least
        idle = ~self._checkpoint_halved & (self._checkpoint_value == self._best_value)
        halve = few | idle
        self._checkpoint_halved, self._checkpoint_value = halve, self._best_value
        self._climbed = torch.zeros_like(self._climbed)
        rows = halve.view(-1, 1, 1, 1)
        self.rate = torch.where(rows, self.rate / 2, self.rate)
        self._last = torch.where(halve, self._best_value, self._last)
        return torch.where(rows, self._best, at), torch.where(rows, self._grad, grad)
