"""Attack: every method is a generator that shows pictures to an oracle; the best one is the answer. METHODS lists all.

docs/contributing.md names every place that a new method touches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...engine.job import Job, Steps, TimeUp
from ...engine.query import Query
from ..regions import ScoredRegion, placed_as, within
from .apgd import apgd
from .ball import Ball
from .baselines import corruption, sphere
from .blindness import flat
from .ensemble import Stage, ensemble
from .fab import fab_targeted
from .fooling import fooling
from .goal import Goal, GoalSpec, Loss
from .gradient import fgsm, gradient_ascent, pgd, transfer
from .input_transform import InputTransform
from .one_pixel import one_pixel
from .oracle import Oracle, TrajectoryPoint
from .patch import FINAL_TRIALS, patch
from .square import square
from .targeted import apgd_targeted, malt

Parameters = Mapping[str, Any]


class Rows(NamedTuple):
    """Rows that a method asks for: of scores alone, and of gradients."""

    scores: int
    gradients: int


class AttackMethod(NamedTuple):
    """A method, what it costs, and how it uses budgets, losses and successes."""

    function: Callable[..., Steps]
    rows: Callable[[Parameters], Rows]
    uses: Literal["gradients", "scores"] = "gradients"
    bounded: bool = True  # Whether eps bounds it; otherwise it has a measure of its own.
    stops_early: bool = False  # Whether it stops at the first success by default.
    uses_surrogate: bool = False  # Whether it takes the gradients of another model.
    eot: bool = True  # Whether it can follow the mean gradient over random changes (eot).
    mask: bool = True  # Whether it can leave the pixels outside a mask as they are.
    at_once: str = ""  # The parameter that sets how many pictures a step has; "" for one.
    tries_classes: bool = False  # Whether it tries other classes in turn: no target, and a softmax head only.
    own_loss: Loss | None = None  # Its default loss, if another than that of its kind.
    fixed_loss: bool = False  # Whether no other loss can be chosen.

    @property
    def loss(self) -> Loss:
        """The default loss."""
        return self.own_loss or ("cross_entropy" if self.uses == "gradients" else "margin")


def _sphere_rows(p: Parameters) -> Rows:
    return Rows(p["points"] + 1, 0 if p["radius"] else 10)


def _targeted_rows(p: Parameters) -> Rows:
    return Rows(1 + p["classes"], p["steps"] * p["classes"])


def _fab_rows(p: Parameters) -> Rows:
    return Rows(1 + p["steps"] * p["classes"], p["steps"] * p["classes"])


def _malt_rows(p: Parameters) -> Rows:
    return Rows(1 + p["classes"], p["candidates"] + p["steps"] * p["classes"])


def _ensemble_rows(p: Parameters) -> Rows:
    targeted, fab = _targeted_rows(p), _fab_rows(p)
    scores = 1 + targeted.scores + fab.scores + p["queries"]
    return Rows(scores, p["steps"] + targeted.gradients + fab.gradients)


METHODS: Mapping[str, AttackMethod] = {
    "gradient_ascent": AttackMethod(gradient_ascent, lambda p: Rows(1, p["steps"]), bounded=False),
    "fgsm": AttackMethod(fgsm, lambda p: Rows(1, 1)),
    "pgd": AttackMethod(pgd, lambda p: Rows(p["restarts"], p["steps"] * p["restarts"]), at_once="restarts"),
    "apgd": AttackMethod(apgd, lambda p: Rows(p["restarts"], p["steps"] * p["restarts"]), at_once="restarts"),
    "one_pixel": AttackMethod(
        one_pixel,
        lambda p: Rows(p["population"] * (p["generations"] + 1), 0),
        "scores",
        bounded=False,
        stops_early=True,
        mask=False,
    ),
    "square": AttackMethod(square, lambda p: Rows(p["queries"], 0), "scores", stops_early=True, at_once="candidates"),
    "transfer": AttackMethod(transfer, lambda p: Rows(2, p["steps"]), uses_surrogate=True),
    "fooling": AttackMethod(
        fooling,
        lambda p: Rows(p["population"] * (p["generations"] + 1), 0),
        "scores",
        bounded=False,
        stops_early=True,
        mask=False,
    ),
    "sphere": AttackMethod(sphere, _sphere_rows, eot=False, mask=False),
    "corruption": AttackMethod(corruption, lambda p: Rows(1, 0), "scores", bounded=False, mask=False),
    "patch": AttackMethod(
        patch,
        lambda p: Rows(FINAL_TRIALS, p["steps"] * p["places"]),
        bounded=False,
        eot=False,
        at_once="places",
        mask=False,
    ),
    "apgd_targeted": AttackMethod(apgd_targeted, _targeted_rows, stops_early=True, tries_classes=True, own_loss="dlr"),
    "fab_targeted": AttackMethod(
        fab_targeted, _fab_rows, stops_early=True, eot=False, tries_classes=True, own_loss="margin", fixed_loss=True
    ),
    "ensemble": AttackMethod(
        ensemble, _ensemble_rows, stops_early=True, eot=False, tries_classes=True, own_loss="margin", fixed_loss=True
    ),
    "malt": AttackMethod(malt, _malt_rows, stops_early=True, tries_classes=True, own_loss="dlr"),
}
FROM_SCRATCH = ("fooling",)  # Methods that need a target and no picture.
# Methods that also run on a picture that is misclassified as it is.
ALSO_IF_MISCLASSIFIED = (*FROM_SCRATCH, "corruption")


@dataclass(frozen=True, slots=True)
class AttackArguments:
    """An attack as it was asked for."""

    method: str
    parameters: Parameters
    goal_spec: GoalSpec
    ball: Ball
    std: tuple[float, ...]  # The model's normalisation, for each channel.
    stop: bool = False  # Whether the first success ends it.
    adaptive: bool = False  # Whether it attacks through the defence, instead of the bare model.
    transform: InputTransform = field(default_factory=InputTransform)
    region: ScoredRegion | None = None  # The positions whose mean scores are the logits, where a network has such.


@dataclass(frozen=True, slots=True)
class Attacked:
    """An attack's result: the best picture in 8 bits [H, W, 3], the goal, the numbers of passes, and how it went."""

    pixels: np.ndarray
    goal: Goal
    ball: Ball  # The budget of the attack.
    first_success: int | None
    queries: int
    gradients: int
    asked: int
    done: int
    partial: bool  # Whether the time ran out.
    trajectory: tuple[TrajectoryPoint, ...]
    clean: np.ndarray  # [classes], the original's logits, from a shared batch.
    notes: Mapping[str, Any]
    warnings: tuple[str, ...]


def attack(job: Job, x: Tensor, arguments: AttackArguments) -> Steps:
    """Attacks one picture [1, 3, H, W] whose values are whole 255ths. Returns Attacked; raises NotApplicable."""
    return (yield from within(_attack(job, x, arguments), *placed_as(x, [arguments.region])))


def _attack(job: Job, x: Tensor, arguments: AttackArguments) -> Steps:
    run = job.run()
    clean = (yield Query(arguments.transform.rows_to_judge(x, run))).logits.mean(0, keepdim=True)
    goal = arguments.goal_spec.goal(clean[0], run)
    transform = arguments.transform if arguments.adaptive else arguments.transform.without_defence()
    std = torch.tensor(arguments.std).view(-1, 1, 1).to(x)
    oracle = Oracle(x, goal, arguments.ball, run, std, transform, arguments.stop)
    partial = False
    reliable = job.precision == "exact"  # In a lower precision the prediction itself may differ.
    if arguments.method in ALSO_IF_MISCLASSIFIED or not (reliable and bool(goal.reached(clean))):
        try:
            yield from METHODS[arguments.method].function(x, oracle, arguments.ball, run, **arguments.parameters)
            if transform.eot:
                yield from oracle.survey(FINAL_TRIALS)
        except TimeUp:
            if oracle.best is None:
                raise
            partial = True
            run.warn_of_time()
    if oracle.first_success is None:
        for text in oracle.obstacles:
            run.warn(text)
        if METHODS[arguments.method].uses == "scores" and arguments.ball.eps != 0 and oracle.flat:
            run.warn(flat(oracle.goal))
    best = x if oracle.best is None else oracle.best
    return Attacked(
        pixels=oracle.ball.encoded(best, x)[0].permute(1, 2, 0).contiguous().cpu().numpy(),
        goal=oracle.goal,
        ball=oracle.ball,
        first_success=oracle.first_success,
        queries=oracle.queries,
        gradients=oracle.gradients,
        asked=run.asked,
        done=run.done,
        partial=partial,
        trajectory=tuple(oracle.trajectory.values()),
        clean=clean[0].float().cpu().numpy(),
        notes=oracle.notes,
        warnings=tuple(run.warnings),
    )


__all__ = [
    "METHODS",
    "AttackArguments",
    "AttackMethod",
    "Attacked",
    "Ball",
    "Goal",
    "GoalSpec",
    "InputTransform",
    "Loss",
    "Rows",
    "Stage",
    "attack",
]
