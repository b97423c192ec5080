"""By what errors of logits are judged: what varies among them, whatever they all have in common."""

import torch
from torch import Tensor

OUTLIER_FACTOR = 10  # times the median class's scale; a class beyond it is judged by its own alone
ROUNDING_ULPS = 4  # of a number itself, that its sum with a large one may be off


def usual(each: Tensor) -> Tensor:
    """Scales [classes], none below that of most classes: a class whose logit is near zero is not judged by it.

    Classes that are masked (by -inf or -1e9) are all alike, and count as one among many.
    """
    median = each.unique().median()
    return torch.maximum(each, torch.minimum(each.amax(), OUTLIER_FACTOR * median))


def largest(logits: Tensor) -> Tensor:
    """The largest absolute finite number of each class: [N, classes] -> [classes]."""
    return logits.abs().where(logits.isfinite(), 0).amax(0)


def scales(logits: Tensor) -> Tensor:
    """How far the logits of each class go from what all of them have in common: [N, classes] -> [classes].

    That is the median of all different finite numbers, and nothing where there is one class.
    """
    finite = logits[logits.isfinite()].unique()
    common = finite.median() if logits.shape[1] > 1 and len(finite) > 1 else logits.new_zeros(())
    return usual(largest(logits - common))


def spreads(logits: Tensor) -> Tensor:
    """How far the logits of each class go from their mean over the images: [N, classes] -> [classes]."""
    mean = logits.where(logits.isfinite(), torch.nan).nanmean(0)
    return usual(largest(logits - mean))


def rounding(logits: Tensor, eps: float) -> Tensor:
    """By how much each class may be off since its numbers are stored with that relative precision: [classes]."""
    return ROUNDING_ULPS * eps * largest(logits)
