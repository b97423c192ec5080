"""Goals, which Maximize raises and Differentiate differentiates: sums of targets, layers, directions and logits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..engine.objective import Objective, layer, projection
from .targets import AnyTarget, Contrast, Prerequisites, Target, layers_of, without_image


@dataclass(frozen=True, slots=True)
class Summand:
    """A weighted target, layer, or sum of all logits."""

    weight: float = 1.0
    target: AnyTarget | None = None
    layer: str = ""
    factors: np.ndarray | None = field(default=None, compare=False)  # The factor of each logit, [classes] float32.

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that it reads; none where it reads the logits."""
        if self.target is None:
            return (self.layer,) if self.layer else ()
        return layers_of(self.target)

    def objective(self, prerequisites: Prerequisites, like: Tensor) -> Objective:
        """The number that is scored, on the device and in the type of `like`."""
        if self.target is not None:
            return self.weight * self.target.objective(prerequisites)
        if self.factors is not None:
            return self.weight * projection(torch.from_numpy(self.factors).to(like))
        return self.weight * layer(self.layer)


Goal = tuple[Summand, ...]


def targets_in(goals: Sequence[Goal]) -> Iterator[AnyTarget]:
    """The targets among the summands."""
    return (summand.target for goal in goals for summand in goal if summand.target is not None)


def objective_of(goal: Goal, prerequisites: Prerequisites, like: Tensor) -> Objective:
    """The sum of the summands."""
    return Objective(tuple(term for summand in goal for term in summand.objective(prerequisites, like).terms))


def resolved(goal: Goal, classes: Sequence[int]) -> Goal:
    """The goal with the classes that ranks stand for. Raises NotApplicable where a contrast's terms cancel out."""
    return tuple(
        summand if summand.target is None else replace(summand, target=summand.target.resolved(classes))
        for summand in goal
    )


def answered(goal: Goal) -> Goal:
    """The goal as it stands in an answer: without the images of similarities."""
    return tuple(
        summand if summand.target is None else replace(summand, target=without_image(summand.target))
        for summand in goal
    )


def weighted_targets(goal: Goal) -> list[tuple[Target, float]]:
    """The classes, units and channels that the goal adds up, with their weights in the sum."""
    terms = []
    for summand in goal:
        each = summand.target
        pairs = each.terms if isinstance(each, Contrast) else ((each, 1.0),)
        terms += [(target, summand.weight * weight) for target, weight in pairs if isinstance(target, Target)]
    return terms
