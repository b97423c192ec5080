"""Why an attack may have nothing to follow, so that a picture that it did not change proves nothing.

Each reason begins with its code; the client's `gradserve.attacks.OBSTACLES` lists the codes.
"""

from torch import Tensor

from .goal import Goal

SUM = 1e-4  # by which probabilities may miss 1 in sum


def obstacles(goal: Goal, logits: Tensor, grad: Tensor, borrowed: bool) -> dict[str, None]:
    """What is wrong with the gradients [n, 3, H, W] of one step at logits [n, classes]: texts, or nothing.

    A step is lost where no row that still misses the goal has a gradient that leads to it. `borrowed`: the gradients
    are those of a surrogate.
    """
    missed = ~goal.reached(logits)
    zero = ~grad.flatten(1).any(1)
    sure = saturated_probabilities(logits)
    wrong = sure | goal.saturated(logits)
    if not bool(missed.any()):
        return {}
    if bool((~missed | zero).all()):
        return {f"ZERO_GRADIENT: the {goal.loss} loss had no gradient to follow; {_advice(goal, borrowed)}": None}
    if bool((~missed | zero | wrong).all()):
        return {PROBABILITIES if bool(sure.any()) else CERTAIN: None}
    if bool((missed & zero).any()):
        return {f"FEWER_GRADIENTS: the {goal.loss} loss had no gradient at a part of a step's pictures": None}
    return {}


CERTAIN = "SATURATED: the probability rounds to 1, where cross-entropy has a wrong gradient; try loss margin"
PROBABILITIES = (
    "SATURATED: the outputs are probabilities that round to 0 and 1, where every loss has a wrong gradient or none; "
    "serve the network's logits"
)


def flat(goal: Goal) -> str:
    """What to say of a search by scores that saw the same loss everywhere."""
    what = "try loss margin" if goal.loss != "margin" else "its outputs are rounded or saturated: serve its logits"
    return f"FLAT_LOSS: the {goal.loss} loss was the same for every picture that was tried; {what}"


def saturated_probabilities(logits: Tensor) -> Tensor:
    """Which rows [n, classes] are probabilities, the largest of which rounds to 1: [n]."""
    return (logits >= 0).all(1) & ((logits.sum(1) - 1).abs() < SUM) & (logits.amax(1) == 1)


def _advice(goal: Goal, borrowed: bool) -> str:
    if goal.loss != "margin":
        return "try loss margin"
    return f"try {'another surrogate, or ' if borrowed else ''}square, which needs none"
