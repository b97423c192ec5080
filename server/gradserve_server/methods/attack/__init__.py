"""Attack: every method is a generator that shows an oracle pictures; the best of them is the answer. METHODS lists all.

A new method is a function here, a row in METHODS, a message in protos/gradserve/v1/attack.proto with the same
parameters, and a row in the table of tests/methods/test_attack.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...engine.job import Job, Run, Steps, TimeUp
from ...engine.query import Query
from .ball import LEVELS, Ball
from .goal import Aim, Goal, Loss
from .gradient import fgsm, gradient_ascent, pgd
from .lens import Lens
from .oracle import Moment, Oracle

Parameters = Mapping[str, Any]


class Rows(NamedTuple):
    """Rows that a method asks for: of scores alone, and of gradients."""

    scores: int
    gradients: int


class Method(NamedTuple):
    """A method, what it costs, and how it uses budgets, losses and successes."""

    function: Callable[..., Steps]
    rows: Callable[[Parameters], Rows]
    uses: Literal["gradients", "scores"] = "gradients"
    bounded: bool = True  # by eps; otherwise it has a measure of its own
    norms: tuple[str, ...] = ("linf", "l2")
    stops: bool = False  # at the first success, where the caller does not say

    @property
    def loss(self) -> Loss:
        """What it climbs where the caller does not say."""
        return "cross_entropy" if self.uses == "gradients" else "margin"


METHODS: Mapping[str, Method] = {
    "gradient_ascent": Method(gradient_ascent, lambda p: Rows(1, p["steps"]), bounded=False),
    "fgsm": Method(fgsm, lambda p: Rows(1, 1)),
    "pgd": Method(pgd, lambda p: Rows(p["restarts"], p["steps"] * p["restarts"])),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """An attack as it was asked for."""

    method: str
    parameters: Parameters
    aim: Aim
    ball: Ball
    std: tuple[float, float, float]  # of the model's normalisation
    stop: bool = False
    adaptive: bool = False
    lens: Lens = field(default_factory=Lens)


@dataclass(frozen=True, slots=True)
class Attacked:
    """What came of it: the best picture in 8 bits [H, W, 3], the goal it was to reach, and what it took."""

    pixels: np.ndarray
    goal: Goal
    already: bool  # the goal was reached before anything was changed
    first_success: int | None
    queries: int
    gradients: int
    asked: int
    done: int
    moments: tuple[Moment, ...]
    clean: np.ndarray  # [classes], the original's logits, in company
    notes: Mapping[str, Any]
    warnings: tuple[str, ...]


def attack(job: Job, x: Tensor, plan: Plan) -> Steps:
    """Attacks one picture [1, 3, H, W] whose values are whole 255ths. Returns Attacked; raises Refused."""
    run = job.run()
    clean = (yield Query(plan.lens.judge(x, run))).logits.mean(0, keepdim=True)
    goal = plan.aim.goal(clean[0], run)
    _check_saturation(clean[0], goal, run)
    lens = plan.lens if plan.adaptive else plan.lens.bare()
    oracle = Oracle(x, goal, plan.ball, run, torch.tensor(plan.std).view(3, 1, 1).to(x), lens, plan.stop)
    already = bool(goal.reached(clean))
    if not already:
        try:
            yield from METHODS[plan.method].function(x, oracle, plan.ball, run, **plan.parameters)
        except TimeUp:
            if oracle.best is None:
                raise
    best = x if oracle.best is None else oracle.best
    return Attacked(
        pixels=plan.ball.encoded(best, x)[0].permute(1, 2, 0).contiguous().cpu().numpy(),
        goal=goal,
        already=already,
        first_success=oracle.first_success,
        queries=oracle.queries,
        gradients=oracle.gradients,
        asked=run.asked,
        done=run.done,
        moments=tuple(oracle.moments.values()),
        clean=clean[0].float().cpu().numpy(),
        notes=oracle.notes,
        warnings=tuple(run.warnings),
    )


def _check_saturation(logits: Tensor, goal: Goal, run: Run) -> None:
    if goal.loss == "cross_entropy" and float(logits.softmax(0).max()) == 1.0:
        run.warn("SATURATED: the softmax rounds to 1, so cross-entropy sees little; try loss margin")


__all__ = ["LEVELS", "METHODS", "Aim", "Attacked", "Ball", "Goal", "Lens", "Loss", "Method", "Plan", "Rows", "attack"]
