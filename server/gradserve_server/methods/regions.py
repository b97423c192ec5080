"""Regions of networks that give a score for each position: all queries of a method get the same weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.job import Steps
from ..engine.query import Query
from ..models.positions import PositionWeights


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRegion:
    """The positions over which scores are summed or averaged."""

    weights: np.ndarray  # [H, W] float32, of the model's input.
    box: tuple[float, float, float, float] | None = None  # Left, top, right and bottom, if it was given so.
    averaged: bool = False  # Whether the logits are the means of the scores instead of their sums.


def placed_as(x: Tensor, regions: Sequence[ScoredRegion | None]) -> list[PositionWeights | None]:
    """The weights of regions with the device and type of `x`; each region is copied to the device once."""
    placed = {id(each): _placed(each, x) for each in regions if each is not None}
    return [None if each is None else placed[id(each)] for each in regions]


def _placed(region: ScoredRegion, x: Tensor) -> PositionWeights:
    return PositionWeights(torch.from_numpy(np.array(region.weights)).to(x), region.averaged)


def within(steps: Steps, weights: PositionWeights | None) -> Steps:
    """Runs a method whose logits are the class scores summed or averaged over a region. Returns its result.

    None leaves the method as it is. Queries to another model than the job's keep theirs.
    """
    if weights is None:
        return (yield from steps)

    def placed(request: Any) -> Any:
        if isinstance(request, Query):
            return replace(request, region=weights) if request.model is None else request
        return [placed(each) for each in request] if isinstance(request, list | tuple) else request

    resume: Callable[[], Any] = partial(next, steps)
    while True:
        try:
            request = resume()
        except StopIteration as stop:
            return stop.value
        try:
            answer = yield placed(request)
        except Exception as error:  # The time is up, or an answer is not finite; a method may answer with less then.
            resume = partial(steps.throw, error)
        else:
            resume = partial(steps.send, answer)
