"""Predict: one forward pass."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..engine.job import Job, Steps
from ..engine.query import Query


@dataclass(frozen=True, slots=True)
class Predicted:
    """The logits of one image, [classes]."""

    logits: np.ndarray


def predict(job: Job, x: Tensor, arguments: None = None) -> Steps:
    """[1, 3, H, W] -> Predicted."""
    answer = yield Query(x)
    return Predicted(answer.logits[0].float().cpu().numpy())
