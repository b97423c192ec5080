"""The standard ensemble: four attacks, each tried only while the picture stands."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ...engine.job import MethodContext, Steps
from ..parameters import Iterations
from .apgd import apgd
from .ball import Ball, pixels
from .blindness import MASKED_GRADIENTS, flat, in_every_stage
from .fab import fab_targeted
from .goal import Loss
from .oracle import Oracle
from .square import Queries, square
from .targeted import ClassCount, apgd_targeted

STAGES: Mapping[str, tuple[Callable[..., Steps], Loss]] = {  # The attacks in order, and the loss that each one raises.
    "apgd": (apgd, "cross_entropy"),
    "apgd_targeted": (apgd_targeted, "dlr"),
    "fab_targeted": (fab_targeted, "margin"),
    "square": (square, "margin"),
}


class Stage(NamedTuple):
    """One stage: the method, whether the goal was reached in 8 bits within the budget, and its passes."""

    method: str
    reached: bool
    queries: int
    gradients: int


def ensemble(
    x: Tensor,
    oracle: Oracle,
    ball: Ball,
    run: MethodContext,
    *,
    steps: Iterations = 100,
    classes: ClassCount = 9,
    queries: Queries = 5000,
) -> Steps:
    """APGD, targeted APGD, targeted FAB and Square until one succeeds (AutoAttack; Croce, Hein 2020).

    Notes the stages that ran.
    """
    climbing = {"steps": steps, "classes": classes}
    parameters = {"apgd": {"steps": steps}, "square": {"queries": queries}}
    stages = oracle.notes["stages"] = list[Stage]()
    run.asked, run.unit = len(STAGES), "stages"
    had_success = False  # Whether an attack by gradients found a picture, even one that the encoding undid.
    for name, (method, loss) in STAGES.items():
        part = oracle.part(replace(oracle.goal, loss=loss))
        try:
            yield from method(x, part, ball, replace(run, asked=1, done=0), **parameters.get(name, climbing))
            yield from _judge_encoded(part)
        finally:
            oracle.absorb(part)
            oracle.obstacles = in_every_stage(oracle.obstacles)
            stages.append(Stage(name, part.done, part.queries, part.gradients))
        run.completed(range(1))
        if part.done:
            break
        had_success |= part.first_success is not None
    if part.done and not part.gradients and not had_success:
        run.warn(MASKED_GRADIENTS)
    if oracle.obstacles and part.flat:
        oracle.obstacles[flat(part.goal)] = None


def _judge_encoded(part: Oracle) -> Steps:
    """Judges the best picture of a stage that did not stop at its first success."""
    if part.first_success is not None and not part.stop:
        encoded = part.ball.encoded(part.shown[0], part.x)
        part.done = bool((yield from part.reaches(pixels(encoded, part.x), 0))[0])
