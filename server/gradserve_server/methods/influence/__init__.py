"""Influence: the training examples behind a prediction, by a model's index. METHODS is the whole list."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...engine.job import Job, Steps, together
from ...engine.query import Query
from .estimates import (
    Estimate,
    Goal,
    IndexedModel,
    Quantity,
    last_layer,
    opened,
    projected_gauss_newton,
    regression_of,
    similar,
    unfolded,
)
from .index import Array, EstimateName, extremes

METHODS: Mapping[EstimateName, Callable[[Tensor, Quantity, IndexedModel], Steps]] = {
    "projected": projected_gauss_newton,
    "last_layer": last_layer,
    "neighbours": similar,
}
SCORE_RESOLUTION = 2.0**-11  # of the largest score: what float16 rows cannot tell apart is neither helpful nor harmful


@dataclass(frozen=True, slots=True)
class Reweighting:
    """What if the weights of these examples changed by weight / N? -1 removes them."""

    rows: tuple[int, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class InfluenceArguments:
    """Which number of which class is traced to its training examples, and by which method."""

    members: tuple[IndexedModel, ...]  # the model and the others of its ensemble
    method: EstimateName
    goal: Goal
    label: int | None
    rank: int  # of the class among the predicted ones, where no label is given
    top: int  # examples of each kind
    what_if: tuple[Reweighting, ...] = ()
    newton: bool = True  # whether single changes are also found by a Newton step, where the method can


@dataclass(frozen=True, slots=True, eq=False)
class Influenced:
    """Rows of the index with their scores, strongest first, and the answers to what-ifs."""

    label: int
    value: float
    probability: float
    helpful: Array  # rows whose removal would harm; of neighbours, the most similar
    harmful: Array
    scores: Array  # of the helpful, then of the harmful
    corrected: Array | None  # the same by a Newton step each
    what_if: tuple[float, ...]
    floor: float  # scores closer to zero are taken for none


def influence(job: Job, x: Tensor, arguments: InfluenceArguments) -> Steps:
    """Scores by every member, averaged: [1, 3, H, W] -> Influenced."""
    members, method, goal = arguments.members, arguments.method, arguments.goal
    asked = Quantity(goal, arguments.label, arguments.rank, members[0].head)
    if arguments.label is None and len(members) > 1:  # they may predict different classes
        answer = yield Query(x, model=unfolded(members[0].model))
        asked = asked.of(answer.logits[0])
    estimates = yield from together([METHODS[method](x, asked, member) for member in members])
    scores = np.mean([each.changes for each in estimates], axis=0)
    floor = SCORE_RESOLUTION * float(np.abs(scores).max())
    helpful, harmful = _ranked(scores, method, goal, arguments.top, floor)
    rows = np.concatenate([helpful, harmful])
    stepped = arguments.newton and all(each.step for each in estimates)
    asked = estimates[0].asked
    values = [float(asked.value(each.scores)) for each in estimates]
    return Influenced(
        label=asked.label,
        value=float(np.mean(values)),
        probability=float(np.mean([float(each.scores.softmax(0)[asked.label]) for each in estimates])),
        helpful=helpful,
        harmful=harmful,
        scores=scores[rows],
        corrected=np.array([_step(estimates, row[None], -1.0) for row in rows]) if stepped else None,
        what_if=tuple(_what_if(each, scores, estimates, members, stepped) for each in arguments.what_if),
        floor=floor,
    )


def _ranked(scores: Array, method: EstimateName, goal: Goal, top: int, floor: float) -> tuple[Array, Array]:
    """Rows that help and rows that harm; a loss rises, a margin or logit falls when a helpful one is removed."""
    high, low = extremes(scores, top)
    if method == "neighbours":
        return high, low[:0]
    high, low = high[scores[high] > floor], low[scores[low] < -floor]
    return (high, low) if goal == "loss" else (low, high)


def _step(estimates: Sequence[Estimate], rows: Array, weight: float) -> float:
    return float(np.mean([each.step(rows, weight) for each in estimates if each.step]))


def _what_if(
    asked: Reweighting, scores: Array, estimates: Sequence[Estimate], members: Sequence[IndexedModel], stepped: bool
) -> float:
    """By a Newton step of the whole group where that is possible, else the sum of the single changes."""
    rows = np.array(asked.rows)
    if stepped and all(regression_of(member.folder).can_step(len(rows)) for member in members):
        return _step(estimates, rows, asked.weight)
    return float(-asked.weight * scores[rows].sum())


__all__ = [
    "METHODS",
    "EstimateName",
    "Goal",
    "IndexedModel",
    "InfluenceArguments",
    "Influenced",
    "Reweighting",
    "influence",
    "opened",
    "unfolded",
]
