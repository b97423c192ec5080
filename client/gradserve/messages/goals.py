"""Goals of Maximize and Differentiate: targets, layers, directions and logits, added and subtracted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from gradserve.arguments import Direction, Layout, TargetLike
from gradserve.messages.common import direction_message, target_message
from gradserve.v1 import common_pb2, maximize_pb2


@dataclass(frozen=True, init=False, repr=False)
class Goal:
    """A weighted sum of parts of a model: `Goal("flamingo") - 0.5 * Goal(Unit("features.14", 7))`.

    `Goal(target)` is a class by index or name, a Rank (for Maximize in the picture at the start), a Unit, a Contrast, a
    Similarity or a Direction. `Goal.layer(name)` is a layer's mean square, `Goal.direction(layer, vector)` the
    projection of its channels on a direction, `Goal.logits(vector)` the sum of the logits times the vector's numbers.
    """

    summands: tuple[maximize_pb2.Summand, ...]

    def __init__(self, target: TargetLike) -> None:
        object.__setattr__(self, "summands", (_summand(target),))

    @classmethod
    def layer(cls, name: str) -> Self:
        """The mean square of a layer, as DeepDream maximises it."""
        return cls._of(maximize_pb2.Summand(layer=name))

    @classmethod
    def direction(cls, layer: str, vector: Sequence[float]) -> Self:
        """The mean over a layer's map of its projection on a direction, one number for each channel."""
        values = [float(value) for value in vector]
        return cls._of(maximize_pb2.Summand(direction=common_pb2.Direction(layer=layer, vector=values)))

    @classmethod
    def logits(cls, vector: Sequence[float] | np.ndarray[Any, Any]) -> Self:
        """The sum of the logits, each times its factor in `vector`; the gradient is a vector-Jacobian product."""
        factors = np.asarray(vector, dtype="<f4")
        tensor = common_pb2.Tensor(shape=factors.shape, dtype=common_pb2.DTYPE_FLOAT32, data=factors.tobytes())
        return cls._of(maximize_pb2.Summand(logits=tensor))

    @classmethod
    def _of(cls, *summands: maximize_pb2.Summand) -> Self:
        goal = cls.__new__(cls)
        object.__setattr__(goal, "summands", summands)
        return goal

    def __add__(self, other: "Goal") -> "Goal":
        return Goal._of(*self.summands, *other.summands)

    def __mul__(self, factor: float) -> "Goal":
        weighted = []
        for each in self.summands:
            copy = maximize_pb2.Summand()
            copy.CopyFrom(each)
            copy.weight = factor * (each.weight if each.HasField("weight") else 1.0)
            weighted.append(copy)
        return Goal._of(*weighted)

    __rmul__ = __mul__

    def __neg__(self) -> "Goal":
        return self * -1.0

    def __sub__(self, other: "Goal") -> "Goal":
        return self + -other


GoalLike = TargetLike | Goal


def goal_message(goal: GoalLike, layout: Layout) -> maximize_pb2.Goal:
    """A goal as a message; a target alone is a goal too, and its pictures have the axes of `layout`."""
    return maximize_pb2.Goal(summands=goal.summands if isinstance(goal, Goal) else [_summand(goal, layout)])


def _summand(target: TargetLike, layout: Layout = "HWC") -> maximize_pb2.Summand:
    if isinstance(target, Direction):
        return maximize_pb2.Summand(direction=direction_message(target))
    return maximize_pb2.Summand(target=target_message(target, layout))
