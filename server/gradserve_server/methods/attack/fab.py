"""FAB: it seeks the nearest picture that the model gets wrong.

Croce, Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack".
"""

from dataclasses import replace

import torch
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ...engine.objective import logit
from ..parameters import Iterations
from .ball import Ball, Norm, length
from .oracle import Oracle
from .targeted import ClassCount, other_classes

# The paper's parameters: the largest share of the original in a step, the overshoot, and the step back to the original.
ALPHA_MAX, ETA, BETA = 0.1, 1.05, 0.9
MIN_NORM = 1e-8  # Smallest length of a projection's move, so that the share of the original is defined.
ROUNDING = 1e-6  # By so much the norm of a picture on the edge of the ball may exceed eps in fp32.


def fab_targeted(
    x: Tensor,
    oracle: Oracle,
    ball: Ball,
    run: MethodContext,
    *,
    steps: Iterations = 100,
    classes: ClassCount = 9,
) -> Steps:
    """FAB towards each of the most probable other classes, begun at the original (the paper's algorithm 1).

    It seeks without regard to the budget, but only pictures within it may become the answer.
    """
    others = yield from other_classes(x, oracle, classes)
    run.asked = steps * len(others)
    for target in others:
        if oracle.done:
            return
        part = oracle.part(toward=replace(oracle.goal, target=target))
        try:
            yield from _descend(x, target, part, ball, run, steps)
        finally:
            oracle.absorb(part)


def _descend(x: Tensor, target: int, oracle: Oracle, ball: Ball, run: MethodContext, steps: int) -> Steps:
    """Steps to the boundary between the true class and the target, biased to the original."""
    gap, at = logit(target) - logit(oracle.goal.label), x
    for step in range(steps):
        evaluation = yield from oracle.climb(at, step, gap, keep=False)
        if not evaluation.grad.any():
            return
        at = fab_step(at, x, evaluation.grad, float(evaluation.value), ball.norm)
        within = bool(length(at - x, float("inf") if ball.norm == "linf" else 2) <= (ball.eps or 0) + ROUNDING)
        shown = ball.project(at, x) if within else at
        evaluation = yield from oracle.scores(shown, step, keep=within)
        if oracle.done:
            return
        if bool(evaluation.reached > 0.5):
            at = x + BETA * (at - x)
        run.completed(range(1))


def fab_step(at: Tensor, x: Tensor, grad: Tensor, gap: float, norm: Norm) -> Tensor:
    """The next picture: of `at` and x, both moved to the linearised boundary and beyond, a mean. [1, 3, H, W].

    `gap` is the target's logit less the true class's at the picture `at`, and `grad` its gradient.
    """
    level = (grad.double() * at.double()).sum() - gap
    moves = [to_hyperplane(image.flatten(), grad.flatten(), float(level), norm).view_as(x) for image in (at, x)]
    order = float("inf") if norm == "linf" else 2
    own, original = (float(length(move, order).clamp_min(MIN_NORM)) for move in moves)
    alpha = min(own / (own + original), ALPHA_MAX)
    mean = (1 - alpha) * (at + ETA * moves[0]) + alpha * (x + ETA * moves[1])
    return mean.clamp(0, 1).to(x.dtype)


def to_hyperplane(point: Tensor, normal: Tensor, level: float, norm: Norm) -> Tensor:
    """The shortest move of `point` [d] in [0, 1] to the plane <normal, z> = level within the box [0, 1]^d. [d], fp64.

    Where box and plane do not meet, it goes as far as the box allows. Each coordinate moves towards the plane with a
    speed, 1 for Linf and that of the normal for L2, until it meets the box; so the progress is a concave, piecewise
    linear function of time, whose pieces end where coordinates stop.
    """
    z, w = point.double(), normal.double()
    missing = level - (w * z).sum()
    w = w if missing >= 0 else -w
    room = torch.where(w > 0, 1 - z, z).clamp_min(0) * (w != 0)
    speed = (w != 0).double() if norm == "linf" else w.abs()
    gain = w.abs() * speed  # Progress in a unit of time, while the coordinate moves.
    ends, order = torch.where(speed > 0, room / speed.clamp_min(torch.finfo(torch.float64).tiny), 0).sort()
    gains = gain[order]
    moving = gains.flip(0).cumsum(0).flip(0)  # The progress in a unit of time until each end.
    before = torch.cat([ends.new_zeros(1), ends[:-1]])
    progress = (moving * (ends - before)).cumsum(0)
    piece = int(torch.searchsorted(progress, missing.abs()))
    if piece >= len(ends):
        time = ends[-1]
    else:
        done = progress[piece] - moving[piece] * (ends[piece] - before[piece])
        time = before[piece] + (missing.abs() - done) / moving[piece].clamp_min(torch.finfo(torch.float64).tiny)
    return w.sign() * torch.minimum(time * speed, room)
