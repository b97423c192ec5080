"""Project: the features of pictures at a layer of their model's picture index, which are placed among its own."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..engine.job import Job, Steps
from ..engine.query import Answer, Query, Tap
from .embed import pooled


@dataclass(frozen=True, slots=True)
class ProjectArguments:
    """Of which layer, and of how many pictures; 0 for a request that needs no pass."""

    layer: str
    pictures: int


@dataclass(frozen=True, slots=True)
class PictureFeatures:
    """The mean over the positions of the layer's map, of each picture: [n, C] float32, or None without pictures."""

    values: np.ndarray | None


def project(job: Job, x: Tensor, arguments: ProjectArguments) -> Steps:
    """[n, 3, H, W] -> PictureFeatures. The forward ends at the layer."""
    if not arguments.pictures:
        return PictureFeatures(None)
    tap = Tap(arguments.layer, reduce=lambda act, _: pooled(act, "mean"))
    answers: list[Answer] = []
    for part in job.run().parts(arguments.pictures):
        answers += yield [Query(x[part.start : part.stop], taps=(tap,))]
    return PictureFeatures(torch.cat([each.acts[0] for each in answers]).float().cpu().numpy())
