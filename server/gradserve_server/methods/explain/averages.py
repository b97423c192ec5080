"""Maps that average gradients over many copies of the image."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ...engine.job import Run, Steps, TimeUp
from ...engine.objective import Objective
from ...engine.query import Query
from ..parameters import Baseline, QuadraturePoints, Reduce, Samples, Statistic, Unit
from ..regularizers import blurred
from .maps import Map, reduced


def smooth_grad(
    x: Tensor,
    target: Objective,
    run: Run,
    *,
    samples: Samples = 50,
    noise: Unit = 0.15,
    statistic: Statistic = "mean",
    reduce: Reduce = "sum",
) -> Steps:
    """Mean, variance or mean square of the gradients of noisy copies. [1, 3, H, W] -> Map.

    SmoothGrad: Smilkov et al. 2017; VarGrad: Adebayo et al. 2018; squares: Hooker et al. 2018.
    """
    spread = noise * (x.max() - x.min())
    first, second = torch.zeros_like(x[0]), torch.zeros_like(x[0])
    clean = yield Query(x, target)
    try:
        for part in run.parts(samples):
            noisy = torch.cat([run.noise(i, x).mul_(spread).add_(x) for i in part])
            grads = (yield Query(noisy, target, "image")).image_grad
            first += grads.sum(0)
            if statistic != "mean":
                second += grads.square().sum(0)
            run.completed(part)
    except TimeUp:
        if not run.done:
            raise
    mean, square = first / run.done, second / run.done
    result = {"mean": mean, "square": square, "variance": square - mean.square()}[statistic]
    return Map(reduced(result, reduce), clean.value[0])


def integrated_gradients(
    x: Tensor,
    target: Objective,
    run: Run,
    *,
    steps: QuadraturePoints = 50,
    baseline: Baseline = "black",
    reduce: Reduce = "signed",
) -> Steps:
    """Gradients summed along the line from a baseline, Gauss-Legendre (Sundararajan et al. 2017, eq. 1).

    [1, 3, H, W] -> Map, with the completeness gap: the sum of all attributions minus f(x) - f(baseline).
    """
    start = baseline_of(x, baseline, run)
    alphas, weights = (torch.from_numpy(v).to(x) for v in gauss_legendre(steps))
    ends = yield Query(torch.cat([x, start]), target)
    total = torch.zeros_like(x)
    for part in run.parts(steps):
        at = alphas[part.start : part.stop].view(-1, 1, 1, 1)
        grads = (yield Query(start + at * (x - start), target, "image")).image_grad
        total = total + (grads * weights[part.start : part.stop].view(-1, 1, 1, 1)).sum(0)
        run.completed(part)
    attributions = ((x - start) * total)[0]
    gap = attributions.sum() - (ends.value[0] - ends.value[1])
    return Map(reduced(attributions, reduce), ends.value[0], completeness_gap=gap.item())


@lru_cache(32)
def gauss_legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1] by Newton's method; numpy's own would hold up the device for seconds at 2000."""
    x = np.cos(np.pi * (np.arange(count, 0, -1) - 0.25) / (count + 0.5))
    for _ in range(4):
        before, here = np.ones(count), x
        for k in range(2, count + 1):
            before, here = here, ((2 * k - 1) * x * here - (k - 1) * before) / k
        slope = count * (before - x * here) / (1 - x * x)
        x = x - here / slope
    return (x + 1) / 2, 1 / ((1 - x * x) * slope**2)


def baseline_of(x: Tensor, kind: Baseline, run: Run) -> Tensor:
    """The image that stands for "nothing there", [1, 3, H, W]."""
    if kind == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    if kind == "noise":
        return run.noise(0, x, uniform=True)
    if kind == "blur":
        return blurred(x, min(x.shape[2:]) / 16)
    return torch.zeros_like(x)
