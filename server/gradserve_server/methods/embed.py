"""Embed: the features of a layer."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from ..engine.job import Job, Steps
from ..engine.query import Query, Tap
from ..models.taps import Side

Pooling = Literal["mean", "max", "none"]


@dataclass(frozen=True, slots=True)
class EmbedArguments:
    """Which features: what goes into a layer or comes out of it, and how its positions are pooled."""

    layer: str
    side: Side
    pooling: Pooling


@dataclass(frozen=True, slots=True)
class Embedded:
    """The features of one image: [C], or [C, h, w] where they are not pooled."""

    values: np.ndarray


def embed(job: Job, x: Tensor, arguments: EmbedArguments) -> Steps:
    """[1, 3, H, W] -> Embedded. The forward ends at the layer."""
    tap = Tap(arguments.layer, arguments.side, reduce=lambda act, _: pooled(act, arguments.pooling))
    answer = yield Query(x, taps=(tap,))
    return Embedded(answer.acts[0][0].float().cpu().numpy())


def pooled(act: Tensor, pooling: Pooling) -> Tensor:
    """[N, C, h, w] -> [N, C] by mean or maximum; vectors and unpooled maps as they are."""
    if act.dim() == 2 or pooling == "none":
        return act
    return act.mean((2, 3)) if pooling == "mean" else act.amax((2, 3))
