"""Curves of insertion and deletion (Petsiuk et al. 2018): a target as the first pixels of a map come or go."""

import numpy as np
import torch
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ...engine.objective import Objective
from ...engine.query import Query
from ..regularizers import blurred
from .trust import BLUR, CurvePair

STEPS = 14  # Equal shares of the pixels that come or go one after another.
CURVE_ROWS = 2 * STEPS + 1  # The whole picture is the last point of insertion and the first of deletion.


def curves(x: Tensor, values: np.ndarray, objective: Objective, run: MethodContext, *, exponential: bool) -> Steps:
    """Both curves of a map [H, W] of the picture [1, 3, H, W]. Returns CurvePair.

    `exponential`: whether the objective is a log-probability, and the curves are of the probability. Pixels of
    one value come in random order.
    """
    height, width = values.shape
    ties = run.generator(0).permutation(values.size)
    order = ties[np.argsort(-values.flatten()[ties], kind="stable")]
    place = np.empty(values.size, np.int64)
    place[order] = np.arange(values.size)
    rank = torch.from_numpy(place.reshape(height, width)).to(x.device)
    gone, grey = blurred(x, BLUR * min(height, width)), x.mean((2, 3), keepdim=True).expand_as(x)
    first = [rank < round(k * values.size / STEPS) for k in range(STEPS + 1)]
    pairs = [(kept, x, gone) for kept in first] + [(kept, grey, x) for kept in first[1:]]
    scores = list[Tensor]()
    for part in run.parts(CURVE_ROWS):
        images = [torch.where(kept, inside, outside) for kept, inside, outside in pairs[part.start : part.stop]]
        scores.append((yield Query(torch.cat(images), objective)).value)
    values_along = torch.cat(scores).double()
    points = (values_along.exp() if exponential else values_along).tolist()
    return CurvePair(tuple(points[: STEPS + 1]), (points[STEPS], *points[STEPS + 1 :]))


def area(curve: tuple[float, ...]) -> float:
    """The mean height of a curve of equally spaced points, by trapezoids."""
    return float(np.trapezoid(curve) / (len(curve) - 1))
