"""Scales by which errors of logits are judged: how much the logits vary, without what all have in common."""

import torch
from torch import Tensor

MAX_FLOOR_PER_MEDIAN = 10  # Largest floor of the scales, in multiples of their median.
ROUNDING_ULPS = 4  # Rounding error of a stored number, in multiples of its format's eps.


def floored(each: Tensor) -> Tensor:
    """Scales [classes], none below a floor, so that a class whose logits are near zero is not judged by its own alone.

    The floor is the largest scale, or a multiple of the median if that is less. Classes that are masked (by -inf or
    -1e9) have one scale, which counts once in the median.
    """
    median = each.unique().median()
    return torch.maximum(each, torch.minimum(each.amax(), MAX_FLOOR_PER_MEDIAN * median))


def largest(logits: Tensor) -> Tensor:
    """The largest absolute finite number of each class: [N, classes] -> [classes]."""
    return logits.abs().where(logits.isfinite(), 0).amax(0)


def scales(logits: Tensor) -> Tensor:
    """How far the logits of each class go from what all of them have in common: [N, classes] -> [classes].

    They have the median of all different finite numbers in common, or 0 where there is one class. Of
    only two numbers it is the mean, since the lower one, which torch takes, would leave its class without a scale.
    """
    finite = logits[logits.isfinite()].unique()
    if logits.shape[1] == 1 or len(finite) < 2:
        return floored(largest(logits))
    common = finite.mean() if len(finite) == 2 else finite.median()
    return floored(largest(logits - common))


def spreads(logits: Tensor) -> Tensor:
    """How far the logits of each class go from their mean over the images: [N, classes] -> [classes]."""
    mean = logits.where(logits.isfinite(), torch.nan).nanmean(0)
    return floored(largest(logits - mean))


def rounding(logits: Tensor, eps: float) -> Tensor:
    """The rounding error of each class [classes], for logits that are stored with that relative precision."""
    return ROUNDING_ULPS * eps * largest(logits)
