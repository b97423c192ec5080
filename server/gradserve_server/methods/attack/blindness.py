"""Why an attack may have nothing to follow, so that a picture that it did not change proves nothing.

Each reason begins with its code; the client's `gradserve.results.attack.OBSTACLES` lists the codes.
"""

from collections.abc import Iterable

from torch import Tensor

from .goal import Goal

TRY_MARGIN = "try loss margin"
# No obstacle, since the attack succeeded.
MASKED_GRADIENTS = (
    "MASKED_GRADIENTS: square, which asks for scores alone, found what the attacks by gradients did not; do not trust "
    "the network's gradients, nor other verdicts that rest on them"
)


def obstacles(goal: Goal, climbed: Goal, logits: Tensor, grad: Tensor, borrowed: bool) -> dict[str, None]:
    """Warnings of gradients [n, 3, H, W] that lead nowhere, in a step at logits [n, classes]: texts, or nothing.

    A step is lost where no row that still misses the goal has a gradient that leads to it. `climbed` is the goal whose
    loss was differentiated. `borrowed`: the gradients are those of a surrogate.
    """
    missed = ~goal.reached(logits)
    zero = ~grad.flatten(1).any(1)
    if not bool(missed.any()):
        return {}
    if bool((~missed | zero).all()):
        return {f"ZERO_GRADIENT: the {climbed.loss} loss had no gradient to follow; {_advice(climbed, borrowed)}": None}
    if bool((~missed | zero | climbed.saturated(logits)).all()):
        return {
            f"SATURATED: the probability rounds to 1, where {climbed.loss} has a wrong gradient; {TRY_MARGIN}": None
        }
    if bool((missed & zero).any()):
        return {f"FEWER_GRADIENTS: the {climbed.loss} loss had no gradient at some of a step's pictures": None}
    return {}


def in_every_stage(texts: Iterable[str]) -> dict[str, None]:
    """The warnings of an ensemble whose every attack by gradients so far gave some of these `texts`, or their codes."""
    codes = dict.fromkeys(text.split(":")[0] for text in texts)
    why = "every attack by gradients that ran lacked one at some step, so that only square, which needs none, can tell"
    return {f"{code}: {why}": None for code in codes}


def flat(goal: Goal) -> str:
    """The warning for a search by scores that got the same loss everywhere."""
    what = TRY_MARGIN if goal.loss != "margin" else "its outputs are rounded or saturated: serve its logits"
    return f"FLAT_LOSS: the {goal.loss} loss was the same for every picture that was tried; {what}"


def _advice(goal: Goal, borrowed: bool) -> str:
    if goal.loss != "margin":
        return TRY_MARGIN
    return f"try {'another surrogate, or ' if borrowed else ''}square, which needs none"
