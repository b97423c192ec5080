"""Attacks that try the most probable other classes one after another; whichever is predicted, the attack succeeds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ...engine.objective import logit
from ...engine.scores import ranking
from ..parameters import Fraction, Iterations
from .apgd import climb_from
from .ball import Ball, length
from .oracle import Oracle

ClassCount = Annotated[int, Field(ge=1, le=1000)]
TINY = 1e-12  # It keeps the quotient of a gap over a gradient of zero finite.


def apgd_targeted(
    x: Tensor,
    oracle: Oracle,
    ball: Ball,
    run: MethodContext,
    *,
    steps: Iterations = 100,
    classes: ClassCount = 9,
    rho: Fraction = 0.75,
) -> Steps:
    """APGD towards each of the most probable other classes (Croce, Hein 2020, section 4, algorithm 1)."""
    others = yield from other_classes(x, oracle, classes)
    yield from _climb_to_each(others, x, oracle, ball, run, steps, rho)


def malt(
    x: Tensor,
    oracle: Oracle,
    ball: Ball,
    run: MethodContext,
    *,
    steps: Iterations = 100,
    classes: ClassCount = 9,
    candidates: ClassCount = 100,
    rho: Fraction = 0.75,
) -> Steps:
    """APGD towards the classes that a linear model of the network reaches first (MALT, Melamed et al. 2024).

    Of the `candidates` most probable other classes, those with the smallest gap of logits over the dual norm of the
    gradient of that gap are tried, the most promising one first.
    """
    others = yield from other_classes(x, oracle, candidates)
    dual = 1 if ball.norm == "linf" else 2
    distances: list[float] = []
    at_once = max(1, run.chunk // oracle.transform.views)
    for start in range(0, len(others), at_once):
        gaps = [logit(oracle.goal.label) - logit(other) for other in others[start : start + at_once]]
        values, grads = yield from oracle.gradients_of(x, gaps, 1)
        distances += (values / length(grads, dual).flatten().clamp_min(TINY)).tolist()
    nearest = sorted(range(len(others)), key=distances.__getitem__)[:classes]
    yield from _climb_to_each([others[i] for i in nearest], x, oracle, ball, run, steps, rho)


def other_classes(x: Tensor, oracle: Oracle, count: int) -> Steps:
    """The `count` classes with the highest logits on x besides the true one, as a list, the most probable one first."""
    evaluation = yield from oracle.scores(x, 0)
    return [c for c in ranking(evaluation.logits)[0].tolist() if c != oracle.goal.label][:count]


def _climb_to_each(
    targets: Sequence[int], x: Tensor, oracle: Oracle, ball: Ball, run: MethodContext, steps: int, rho: float
) -> Steps:
    """APGD towards each target from a start of its own, until the picture falls if the oracle is to stop then."""
    run.asked = steps * len(targets)
    for number, target in enumerate(targets, 1):
        if oracle.done:
            return
        part = oracle.part(toward=replace(oracle.goal, target=target))
        start = ball.random(x, run, 1, first=2 * number)  # The samples before are those of `apgd`.
        try:
            yield from climb_from(start, x, part, ball, run, steps, rho)
        finally:
            oracle.absorb(part)
