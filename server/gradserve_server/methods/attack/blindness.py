"""Why an attack may have nothing to follow, so that a picture that it did not change proves nothing.

Each reason begins with its code; the client's `gradserve.results.attack.OBSTACLES` lists the codes.
"""

from torch import Tensor

from .goal import Goal

SATURATED = "SATURATED: the probability rounds to 1, where cross-entropy has a wrong gradient; try loss margin"


def obstacles(goal: Goal, logits: Tensor, grad: Tensor, borrowed: bool) -> dict[str, None]:
    """Warnings of gradients [n, 3, H, W] that lead nowhere, in a step at logits [n, classes]: texts, or nothing.

    A step is lost where no row that still misses the goal has a gradient that leads to it. `borrowed`: the gradients
    are those of a surrogate.
    """
    missed = ~goal.reached(logits)
    zero = ~grad.flatten(1).any(1)
    if not bool(missed.any()):
        return {}
    if bool((~missed | zero).all()):
        return {f"ZERO_GRADIENT: the {goal.loss} loss had no gradient to follow; {_advice(goal, borrowed)}": None}
    if bool((~missed | zero | goal.saturated(logits)).all()):
        return {SATURATED: None}
    if bool((missed & zero).any()):
        return {f"FEWER_GRADIENTS: the {goal.loss} loss had no gradient at some of a step's pictures": None}
    return {}


def flat(goal: Goal) -> str:
    """The warning for a search by scores that got the same loss everywhere."""
    what = "try loss margin" if goal.loss != "margin" else "its outputs are rounded or saturated: serve its logits"
    return f"FLAT_LOSS: the {goal.loss} loss was the same for every picture that was tried; {what}"


def _advice(goal: Goal, borrowed: bool) -> str:
    if goal.loss != "margin":
        return "try loss margin"
    return f"try {'another surrogate, or ' if borrowed else ''}square, which needs none"
