"""Objectives: the scores that rows are differentiated by. They can be added and weighted; `scores.py` computes them."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class NotApplicable(Exception):
    """Nothing is invalid, but this cannot be computed on this model or input; the text says why."""


class Term(NamedTuple):
    """One weighted summand: the kind of score, the layer that it reads ("" for the logits), and a class or position."""

    kind: str
    layer: str
    indices: tuple[int, ...] = ()
    weight: float = 1.0
    goal: Tensor | None = None  # The tensor that the layer is compared with.


@dataclass(frozen=True, slots=True)
class Objective:
    """A weighted sum of terms: 0.2 * channel("features.3", 7) + logit(281)."""

    terms: tuple[Term, ...]

    def __add__(self, other: "Objective") -> "Objective":
        return Objective(self.terms + other.terms)

    def __mul__(self, factor: float) -> "Objective":
        return Objective(tuple(term._replace(weight=term.weight * factor) for term in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> "Objective":
        return self * -1.0

    def __sub__(self, other: "Objective") -> "Objective":
        return self + -other

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that it reads."""
        return tuple(term.layer for term in self.terms if term.layer)

    @property
    def reads_logits(self) -> bool:
        """Whether the forward pass must run to its end."""
        return any(not term.layer for term in self.terms)


def logit(label: int) -> Objective:
    """The logit of a class: its score before softmax or sigmoid."""
    return Objective((Term("logit", "", (label,)),))


def ranked(rank: int) -> Objective:
    """The logit of the class that has that rank in each row; rank 1 is the class with the highest logit."""
    return Objective((Term("ranked", "", (rank - 1,)),))


def log_prob(label: int) -> Objective:
    """The log-probability of a class."""
    return Objective((Term("log_prob", "", (label,)),))


def probability(label: int) -> Objective:
    """The probability of a class."""
    return Objective((Term("probability", "", (label,)),))


def probability_margin(label: int) -> Objective:
    """The probability of a class less the best other one; if a sigmoid judges each class by itself, that alone."""
    return Objective((Term("probability_margin", "", (label,)),))


def ranked_log_prob(rank: int) -> Objective:
    """The log-probability of the class that has that rank in each row; rank 1 is the class with the highest logit."""
    return Objective((Term("ranked_log_prob", "", (rank - 1,)),))


def log_odds(label: int) -> Objective:
    """log p - log(1 - p) of a class: unlike the loss, its gradient does not vanish as p nears 1."""
    return Objective((Term("log_odds", "", (label,)),))


def ranked_log_odds(rank: int) -> Objective:
    """The log-odds of the class that has that rank in each row; rank 1 is the class with the highest logit."""
    return Objective((Term("ranked_log_odds", "", (rank - 1,)),))


def margin(label: int) -> Objective:
    """The logit of a class less the best other logit; if a sigmoid judges each class by itself, the logit alone."""
    return Objective((Term("margin", "", (label,)),))


def dlr(label: int) -> Objective:
    """The margin over the difference of the best and the third best logit (Croce, Hein 2020, eq. 6 with its sign)."""
    return Objective((Term("dlr", "", (label,)),))


def targeted_dlr(label: int, target: int) -> Objective:
    """Two classes' difference over that of the best and the mean of third and fourth (Croce, Hein 2020, eq. 7)."""
    return Objective((Term("targeted_dlr", "", (label, target)),))


def unit(layer: str, channel: int, y: int, x: int) -> Objective:
    """One position of one channel of a layer."""
    return Objective((Term("unit", layer, (channel, y, x)),))


def channel(layer: str, index: int) -> Objective:
    """The mean of a channel over its map, or that element of a vector."""
    return Objective((Term("channel", layer, (index,)),))


def layer(name: str) -> Objective:
    """The mean square of a layer, which is DeepDream's half squared norm up to a factor (Mordvintsev et al. 2015)."""
    return Objective((Term("layer", name),))


def direction(name: str, vector: Tensor) -> Objective:
    """The mean over a layer's map of the projection on a direction [C], taken at unit length."""
    return Objective((Term("direction", name, goal=vector / vector.norm()),))


def projection(factors: Tensor) -> Objective:
    """The sum of the logits times the factors [classes], whose gradient is a vector-Jacobian product."""
    return Objective((Term("direction", "", goal=factors),))


def similarity(name: str, goal: Tensor) -> Objective:
    """The cosine between a layer's features and `goal` [C]; of a map the features are the means of the channels."""
    return Objective((Term("similarity", name, goal=goal),))


def content(name: str, goal: Tensor, weight: float) -> Objective:
    """Weighted squared distance of a layer from `goal` [C, h, w]."""
    return Objective((Term("content", name, (), weight, goal),))


def style(name: str, goal: Tensor, weight: float) -> Objective:
    """Weighted squared distance of a layer's Gram matrix from `goal` [C, C] (Gatys et al. 2016)."""
    return Objective((Term("style", name, (), weight, goal),))
