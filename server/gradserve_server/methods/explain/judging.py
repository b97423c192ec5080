"""The judgements of all maps of a request: one set of masked pictures for all of them, and curves for each."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from ...engine.job import Job, Steps, together
from ...engine.objective import Objective, log_prob
from ..regions import ScoredRegion, placed_as, within
from ..targets import AnyTarget, Target
from .curves import CURVE_ROWS, curves
from .trust import MASKS, half_masks, judged, masked_values


@dataclass(frozen=True, slots=True)
class Answered:
    """A call's answer, with its target as it was resolved, and what to ask for that target's value."""

    explained: Any  # Explained
    target: AnyTarget
    objective: Objective
    region: ScoredRegion | None = None


def judging_rows(regions: Sequence[ScoredRegion | None], *, with_curves: bool) -> int:
    """The rows that it takes to judge maps of targets with these regions."""
    sets = len({_key(region) for region in regions})
    return MASKS * sets + (CURVE_ROWS * len(regions) if with_curves else 0)


def judge(job: Job, x: Tensor, answered: Sequence[Answered], maps: Sequence[np.ndarray], *, with_curves: bool) -> Steps:
    """Judges maps [H, W] of the image [1, 3, H, W]. Returns a Judgement for each."""
    masks = half_masks(x, job.run())
    groups: dict[Hashable, dict[AnyTarget, Answered]] = {}  # One map of each target, by region.
    for each in answered:
        groups.setdefault(_key(each.region), {}).setdefault(each.target, each)
    runs = [_values(job, x, masks, list(group.values()), len(groups)) for group in groups.values()]
    tables = yield from together(runs)
    scores = {
        (region, target): row
        for (region, group), table in zip(groups.items(), tables, strict=True)
        for target, row in zip(group, table, strict=True)
    }
    judgements = [
        judged(values, masks, scores[_key(each.region), each.target])
        for each, values in zip(answered, maps, strict=True)
    ]
    if not with_curves:
        return judgements
    pairs = yield from together([_curves(job, x, *each, len(maps)) for each in zip(answered, maps, strict=True)])
    return [replace(each, curves=pair) for each, pair in zip(judgements, pairs, strict=True)]


def _values(job: Job, x: Tensor, masks: np.ndarray, group: Sequence[Answered], beside: int) -> Steps:
    """The values of several targets of one region under each mask. Returns [targets, masks]."""
    steps = masked_values(x, masks, [each.objective for each in group], job.run(beside=beside))
    return (yield from within(steps, *placed_as(x, [group[0].region])))


def _curves(job: Job, x: Tensor, answered: Answered, values: np.ndarray, beside: int) -> Steps:
    """A map's curves: of the probability for a class as target, else of the target's value."""
    label = answered.target.label if isinstance(answered.target, Target) else None
    objective = answered.objective if label is None else log_prob(label)
    steps = curves(x, values, objective, job.run(beside=beside), exponential=label is not None)
    return (yield from within(steps, *placed_as(x, [answered.region])))


def _key(region: ScoredRegion | None) -> Hashable:
    """A key that is the same for regions with the same weights that are summed or averaged alike."""
    return None if region is None else (region.weights.tobytes(), region.averaged)
