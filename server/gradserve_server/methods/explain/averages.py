"""Maps that average gradients over many copies of the image."""

from functools import lru_cache
from typing import get_args

import numpy as np
import torch
from scipy.special import roots_legendre
from torch import Tensor

from ...engine.job import MethodContext, Steps, TimeUp
from ...engine.objective import Objective
from ...engine.query import Query
from ..parameters import (
    MAX_POINTS,
    Baseline,
    GradientShapBaselines,
    QuadraturePoints,
    Reduce,
    Samples,
    Statistic,
    Unit,
)
from ..regularizers import blurred
from .estimates import SampleMoments
from .maps import Map, reduced

MAX_GAP_SHARE = 0.05  # The gap that needs no warning, as a share of the difference to explain.
MIN_DIFFERENCE_SHARE = 0.1  # A difference below this share of the target's range along the line counts as near zero.
KINDS: tuple[Baseline, ...] = get_args(Baseline)
NOISE_AFTER = 1 << 20  # Added to a sample's index for a baseline of noise, so that it differs from the picture's noise.
ROUNDING_SHARE = 1e-5  # Gaps below this share of the target's largest value are rounding errors of fp32.


def smooth_grad(
    x: Tensor,
    target: Objective,
    run: MethodContext,
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
    estimate = SampleMoments(x[0], of_variance=statistic == "variance")
    error = estimate.error_of_variance if statistic == "variance" else estimate.error_of_mean
    run.unit = "samples"
    clean = yield Query(x, target)

    def so_far() -> Map:
        result = estimate.variance if statistic == "variance" else estimate.mean
        return Map(reduced(result, reduce), clean.value[0], standard_error=error())

    run.so_far = so_far
    try:
        for part in run.parts(samples):
            noisy = torch.cat([run.noise(i, x).mul_(spread).add_(x) for i in part])
            grads = (yield Query(noisy, target, "image")).image_grad
            estimate.add(grads.square() if statistic == "square" else grads)
            run.completed(part)
            if run.stable(error):
                break
    except TimeUp:
        if not run.done:
            raise
        run.warn_of_time()
    return so_far()


def gradient_shap(
    x: Tensor,
    target: Objective,
    run: MethodContext,
    *,
    samples: Samples = 50,
    baselines: GradientShapBaselines = "mixed",
    noise: Unit = 0.0,
    reduce: Reduce = "signed",
) -> Steps:
    """Mean of gradient times difference, over random baselines and places on the line (Erion et al. 2021, eq. 4).

    [1, 3, H, W] -> Map. As in Captum's GradientShap, a sample adds its noise to the picture first.
    """
    spread = noise * (x.max() - x.min())
    estimate = SampleMoments(x[0])
    run.unit = "samples"
    clean = yield Query(x, target)

    def so_far() -> Map:
        return Map(reduced(estimate.mean, reduce), clean.value[0], standard_error=estimate.error_of_mean())

    run.so_far = so_far
    try:
        for part in run.parts(samples):
            ends = torch.cat([run.noise(i, x).mul_(spread).add_(x) if noise else x for i in part])
            starts, places = random_lines(part, x, baselines, run)
            grads = (yield Query(starts + places * (ends - starts), target, "image")).image_grad
            estimate.add(grads * (ends - starts))
            run.completed(part)
            if run.stable(estimate.error_of_mean):
                break
    except TimeUp:
        if not run.done:
            raise
        run.warn_of_time()
    return so_far()


def random_lines(part: range, x: Tensor, baselines: GradientShapBaselines, run: MethodContext) -> tuple[Tensor, Tensor]:
    """The baselines [n, 3, H, W] of these samples, and the places [n, 1, 1, 1] on the lines from there, 0 to 1."""
    kinds = KINDS if baselines == "mixed" else (baselines,)
    fixed = {kind: baseline_of(x, kind, run) for kind in kinds if kind != "noise"}
    starts, places = [], []
    for i in part:
        rng = run.generator(i)
        places.append(rng.random())
        kind = kinds[rng.integers(len(kinds))]
        starts.append(run.noise(NOISE_AFTER + i, x, uniform=True) if kind == "noise" else fixed[kind])
    return torch.cat(starts), torch.tensor(places, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1)


def integrated_gradients(
    x: Tensor,
    target: Objective,
    run: MethodContext,
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
    total, values = torch.zeros_like(x), [ends.value]
    for part in run.parts(steps):
        at = alphas[part.start : part.stop].view(-1, 1, 1, 1)
        answer = yield Query(start + at * (x - start), target, "image")
        values.append(answer.value)
        total = total + (answer.image_grad * weights[part.start : part.stop].view(-1, 1, 1, 1)).sum(0)
        run.completed(part)
    attributions = ((x - start) * total)[0]
    difference = ends.value[0] - ends.value[1]
    gap = attributions.sum() - difference
    _warn_of_gap(run, gap.item(), difference.item(), torch.cat(values), steps)
    return Map(reduced(attributions, reduce), ends.value[0], completeness_gap=gap.item())


def _warn_of_gap(run: MethodContext, gap: float, difference: float, values: Tensor, steps: int) -> None:
    """Warns where the attributions do not add up to the difference that they are to explain.

    Where the difference is near zero, because the target rises and falls along the line, the gap is compared with a
    part of the target's range along it. `values` [steps + 2] are the target's along the line.
    """
    extent = (values.max() - values.min()).item()
    noise = ROUNDING_SHARE * values.abs().max().item()
    if abs(gap) <= max(MAX_GAP_SHARE * max(abs(difference), MIN_DIFFERENCE_SHARE * extent), noise):
        return
    near_zero = abs(difference) <= MIN_DIFFERENCE_SHARE * extent
    scale = extent if near_zero else abs(difference)
    name = f"the range ({extent:.4g}) that the target has between them" if near_zero else "the difference"
    size = f"{abs(gap) / scale:.1%} of {name}" if scale else f"{gap:.3g}"
    advice = f"take more than {steps} steps" if steps < MAX_POINTS else "try another baseline"
    if run.precision != "exact":
        advice += f", and EXACT in place of {run.precision.upper()}"
    run.warn(
        f"INCOMPLETE: the attributions add up to {difference + gap:.4g}, but the target differs by {difference:.4g} "
        f"between picture and baseline: a gap of {size}; {advice}"
    )


@lru_cache(32)
def gauss_legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]; 80 ms for 2000, which numpy's own takes seconds for."""
    x, weights = roots_legendre(count)
    return (x + 1) / 2, weights / 2


def baseline_of(x: Tensor, kind: Baseline, run: MethodContext) -> Tensor:
    """The image that stands for "nothing there", [1, 3, H, W]."""
    if kind == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    if kind == "noise":
        return run.noise(0, x, uniform=True)
    if kind == "blur":
        return blurred(x, min(x.shape[2:]) / 16)
    return torch.zeros_like(x)
