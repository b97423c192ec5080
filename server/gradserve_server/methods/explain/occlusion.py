"""Maps from what is lost when a part of the image is covered."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ...engine.objective import Objective
from ...engine.query import Query
from ..parameters import Fraction, Unit
from .maps import Map


def occlusion(
    x: Tensor,
    target: Objective,
    run: MethodContext,
    *,
    patch: Fraction = 1 / 7,
    stride: Fraction = 0.5,
    value: Unit = 0.5,
) -> Steps:
    """Drop of the score under a sliding grey patch (Zeiler & Fergus 2014). [1, 3, H, W] -> Map.

    A pixel's value is the mean drop over the patches that cover it.
    """
    height, width = x.shape[2:]
    side, tops, lefts = grid((height, width), patch, stride)
    corners = list(product(tops, lefts))
    clean = yield Query(x, target)
    drops, covered = torch.zeros_like(x[0, 0]), torch.zeros_like(x[0, 0])
    for part in run.parts(len(corners)):
        images = x.repeat(len(part), 1, 1, 1)
        for image, i in zip(images, part, strict=True):
            image[:, corners[i][0] : corners[i][0] + side, corners[i][1] : corners[i][1] + side] = value
        values = (yield Query(images, target)).value
        for drop, i in zip(clean.value[0] - values, part, strict=True):
            window = slice(corners[i][0], corners[i][0] + side), slice(corners[i][1], corners[i][1] + side)
            drops[window] += drop
            covered[window] += 1
        run.completed(part)
    return Map(drops / covered.clamp_min(1), clean.value[0])


def grid(size: tuple[int, int], patch: float, stride: float) -> tuple[int, list[int], list[int]]:
    """Side of the patch, and its upper and left edges; the last lie flush, so that every pixel is covered."""
    side = max(1, round(patch * min(size)))
    step = max(1, round(stride * side))
    tops, lefts = (sorted({*range(0, length - side + 1, step), length - side}) for length in size)
    return side, tops, lefts


def occlusion_rows(parameters: Mapping[str, Any], size: tuple[int, int]) -> int:
    """Passes that an input of that size will take."""
    _, tops, lefts = grid(size, parameters["patch"], parameters["stride"])
    return len(tops) * len(lefts) + 1
