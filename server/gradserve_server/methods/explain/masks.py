"""Maps from what random masks leave of the score; no gradient is needed."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...engine.job import MethodContext, Steps, TimeUp
from ...engine.objective import Objective
from ...engine.query import Query
from ..parameters import Baseline, KeptShare, MaskCells, MaskCount
from .averages import baseline_of
from .estimates import SampleSlopes
from .maps import Map

MIN_MASKS = 2  # The fewest masks that have a covariance.
NOT_SHOWN = (
    "NOT_SHOWN: all {count} masks are the same, so that the map of zeros says nothing; "
    "ask for more samples, or for a share `keep` nearer to 0.5 than {keep:g}"
)


def rise(
    x: Tensor,
    target: Objective,
    run: MethodContext,
    *,
    samples: MaskCount = 250,
    grid: MaskCells = 7,
    keep: KeptShare = 0.5,
    baseline: Baseline = "black",
) -> Steps:
    """Covariance of score and random mask over the variance of the mask, by pixel. [1, 3, H, W] -> Map.

    The masks are those of RISE (Petsiuk et al. 2018, section 3.2). Its mean of masks weighted by the score (eq. 6) is
    the covariance plus the mean score times the mean mask: a constant that hides it.
    """
    hidden = baseline_of(x, baseline, run)
    estimate = SampleSlopes(x[0, 0])
    run.unit = "samples"
    clean = yield Query(x, target)

    def so_far() -> Map:
        return Map(estimate.slopes, clean.value[0], standard_error=estimate.error())

    run.so_far = so_far
    try:
        for part in run.parts(samples):
            masks = random_masks(part, x, grid, keep, run)
            values = (yield Query(hidden + masks[:, None] * (x - hidden), target)).value
            for mask, value in zip(masks, values, strict=True):
                estimate.add(mask, value)
            run.completed(part)
            if run.stable(estimate.error):
                break
    except TimeUp:
        if run.done < MIN_MASKS:
            raise
        run.warn_of_time()
    if not estimate.varied:
        run.warn(NOT_SHOWN.format(count=run.done, keep=keep))
    return so_far()


def too_many_cells(parameters: Mapping[str, Any], size: tuple[int, int]) -> Mapping[str, str]:
    """What `grid` must be for an input of that height and width, where it is not."""
    if parameters["grid"] <= min(size):
        return {}
    return {"grid": f"must be at most {min(size)}, the shorter side of the input in pixels, was {parameters['grid']}"}


def random_masks(part: range, x: Tensor, grid: int, keep: float, run: MethodContext) -> Tensor:
    """The masks of these samples, [n, H, W] in [0, 1]: random cells, interpolated and shifted by less than a cell."""
    height, width = x.shape[2:]
    tall, wide = -(-height // grid), -(-width // grid)
    cells, shifts = x.new_empty(len(part), 1, grid + 1, grid + 1), list[tuple[int, int]]()
    for place, i in enumerate(part):
        rng = run.generator(i)
        cells[place, 0] = torch.from_numpy(rng.random((grid + 1, grid + 1)) < keep)
        shifts.append((int(rng.integers(tall)), int(rng.integers(wide))))
    size = ((grid + 1) * tall, (grid + 1) * wide)
    fields = F.interpolate(cells, size, mode="bilinear", align_corners=False)[:, 0]
    cut = [each[y : y + height, z : z + width] for each, (y, z) in zip(fields, shifts, strict=True)]
    return torch.stack(cut)
