"""Attacks that follow the gradient."""

from torch import Tensor

from ...engine.job import MethodContext, Steps
from ..parameters import Iterations, ModelName, Rate, Restarts, StepSize
from .ball import Ball
from .oracle import Oracle


def gradient_ascent(
    x: Tensor, oracle: Oracle, ball: Ball, run: MethodContext, *, steps: Iterations = 15, rate: Rate = 0.1
) -> Steps:
    """x + rate * gradient in the model's normalised input, unbounded but for pixels in [0, 1]."""
    per_pixel = rate * oracle.std.square()  # A step u in normalised input is std * u in pixels, and so is the gradient.
    adv, run.asked = x, steps
    for step in range(steps):
        evaluation = yield from oracle.climb(adv, step)
        if oracle.done:
            return
        adv = ball.project(adv + per_pixel * evaluation.grad, x)
        run.completed(range(1))
    yield from oracle.scores(adv, steps)


def fgsm(x: Tensor, oracle: Oracle, ball: Ball, run: MethodContext) -> Steps:
    """One step of the whole budget along the gradient's sign (Goodfellow et al. 2015, section 4)."""
    evaluation = yield from oracle.climb(x, 0)
    adv = (x + (ball.eps or 0) * ball.direction(evaluation.grad)).clamp(0, 1)
    run.completed(range(1))
    yield from oracle.scores(adv, 1)


def pgd(
    x: Tensor,
    oracle: Oracle,
    ball: Ball,
    run: MethodContext,
    *,
    steps: Iterations = 10,
    step: StepSize = 0.25,
    random_start: bool = True,
    restarts: Restarts = 1,
) -> Steps:
    """Steps up the loss, projected back into the ball each time (Madry et al. 2018, section 2.1)."""
    rate = step * (ball.eps or 0)
    adv = ball.random(x, run, restarts) if random_start else x.repeat(restarts, 1, 1, 1)
    run.asked = steps
    for number in range(steps):
        evaluation = yield from oracle.climb(adv, number)
        if oracle.done:
            return
        adv = ball.project(adv + rate * ball.direction(evaluation.grad), x)
        run.completed(range(1))
    yield from oracle.scores(adv, steps)


def transfer(
    x: Tensor,
    oracle: Oracle,
    ball: Ball,
    run: MethodContext,
    *,
    surrogate: ModelName,
    steps: Iterations = 10,
    step: StepSize = 0.25,
    random_start: bool = True,
) -> Steps:
    """PGD on another model; what it finds there is shown to the attacked one (Szegedy et al. 2014, section 4.2)."""
    crafted = oracle.sibling(surrogate)
    yield from pgd(x, crafted, ball, run, steps=steps, step=step, random_start=random_start)
    oracle.add_passes(crafted)
    _, last = crafted.shown
    yield from oracle.scores(last, steps)
