"""Influence: the training examples behind a prediction, by a model's index. METHODS is the whole list."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...engine.job import Job, Steps, together
from ...engine.query import Query
from ..indexes.folder import Array
from .estimates import (
    Estimate,
    Goal,
    IndexedModel,
    Quantity,
    last_layer,
    projected_gauss_newton,
    regression_of,
    similar,
    unfolded,
)
from .index import EstimateName, extremes

METHODS: Mapping[EstimateName, Callable[[Tensor, Quantity, IndexedModel], Steps]] = {
    "projected": projected_gauss_newton,
    "last_layer": last_layer,
    "neighbours": similar,
}
SCORE_RESOLUTION = 2.0**-11  # Scores below this share of the largest one are rounding errors of float16 rows.


@dataclass(frozen=True, slots=True)
class Reweighting:
    """What if the weights of these examples changed by weight / N? -1 removes them."""

    rows: tuple[int, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class InfluenceArguments:
    """Which number of which class is traced to its training examples, and by which method."""

    members: tuple[IndexedModel, ...]  # The model and the others of its ensemble.
    method: EstimateName
    goal: Goal
    label: int | None
    rank: int  # The rank of the class among the predicted ones, where no label is given.
    top: int  # The number of helpful examples, and of harmful ones.
    what_if: tuple[Reweighting, ...] = ()
    newton: bool = True  # Whether to compute single changes by a Newton step too, where the method can.


@dataclass(frozen=True, slots=True, eq=False)
class Influenced:
    """Rows of the index with their scores, strongest first, and the answers to what-ifs."""

    label: int
    value: float
    probability: float
    helpful: Array  # Rows whose removal would harm; for `neighbours` the most similar rows.
    harmful: Array
    scores: Array  # Scores of the helpful rows, then of the harmful ones.
    corrected: Array | None  # The same scores, each by a Newton step.
    what_if: tuple[float, ...]
    floor: float  # Scores closer to zero count as zero.


def influence(job: Job, x: Tensor, arguments: InfluenceArguments) -> Steps:
    """Scores by every member, averaged: [1, 3, H, W] -> Influenced."""
    members, method, goal = arguments.members, arguments.method, arguments.goal
    quantity = Quantity(goal, arguments.label, arguments.rank, members[0].head)
    if arguments.label is None and len(members) > 1:  # The members may predict different classes.
        answer = yield Query(x, model=unfolded(members[0].model))
        quantity = quantity.of(answer.logits[0])
    estimates = yield from together([METHODS[method](x, quantity, member) for member in members])
    scores = np.mean([each.changes for each in estimates], axis=0)
    floor = SCORE_RESOLUTION * float(np.abs(scores).max())
    helpful, harmful = _rank_rows(scores, method, goal, arguments.top, floor)
    rows = np.concatenate([helpful, harmful])
    by_newton = arguments.newton and all(each.step for each in estimates)
    quantity = estimates[0].quantity
    values = [float(quantity.value(each.scores)) for each in estimates]
    return Influenced(
        label=quantity.label,
        value=float(np.mean(values)),
        probability=float(np.mean([float(each.scores.softmax(0)[quantity.label]) for each in estimates])),
        helpful=helpful,
        harmful=harmful,
        scores=scores[rows],
        corrected=np.array([_step(estimates, row[None], -1.0) for row in rows]) if by_newton else None,
        what_if=tuple(_what_if(each, scores, estimates, members, by_newton) for each in arguments.what_if),
        floor=floor,
    )


def _rank_rows(scores: Array, method: EstimateName, goal: Goal, top: int, floor: float) -> tuple[Array, Array]:
    """Rows that help and rows that harm; a loss rises, a margin or logit falls when a helpful one is removed."""
    high, low = extremes(scores, top)
    if method == "neighbours":
        return high, low[:0]
    high, low = high[scores[high] > floor], low[scores[low] < -floor]
    return (high, low) if goal == "loss" else (low, high)


def _step(estimates: Sequence[Estimate], rows: Array, weight: float) -> float:
    return float(np.mean([each.step(rows, weight) for each in estimates if each.step]))


def _what_if(
    reweighting: Reweighting,
    scores: Array,
    estimates: Sequence[Estimate],
    members: Sequence[IndexedModel],
    by_newton: bool,
) -> float:
    """By a Newton step of the whole group where that is possible, else the sum of the single changes."""
    rows = np.array(reweighting.rows)
    if by_newton and all(regression_of(each.folder, each.digest).can_step(len(rows)) for each in members):
        return _step(estimates, rows, reweighting.weight)
    return float(-reweighting.weight * scores[rows].sum())


__all__ = [
    "METHODS",
    "EstimateName",
    "Goal",
    "IndexedModel",
    "InfluenceArguments",
    "Influenced",
    "Reweighting",
    "influence",
    "unfolded",
]
