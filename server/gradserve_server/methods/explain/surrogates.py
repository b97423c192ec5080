"""Maps of segments, by linear models of the score that are fitted to what choices of segments leave of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ...engine.job import MethodContext, Steps, TimeUp
from ...engine.objective import Objective
from ...engine.query import Query
from ..parameters import Baseline, ChoiceCount, Compactness, KernelWidth, RidgeWeight, SegmentCount
from .fits import Fit, cosine_kernel, ridge_fit, shapley_choices, shapley_fit
from .superpixels import Segments

MIN_EXPLAINED = 0.5  # A share of the score's variance that a linear model explains without a warning.


def lime(
    x: Tensor,
    target: Objective,
    run: MethodContext,
    *,
    samples: ChoiceCount = 150,
    segments: SegmentCount = 50,
    compactness: Compactness = 10.0,
    baseline: Baseline = "mean",
    kernel_width: KernelWidth = 0.25,
    ridge: RidgeWeight = 1.0,
) -> Steps:
    """Coefficients of a weighted ridge regression on which segments are shown. [1, 3, H, W] -> Map.

    Ribeiro, Singh, Guestrin 2016, with the kernel of the authors' code for images: each segment is shown with
    probability 1/2, and the whole picture is the first choice.
    """
    image = Segments(x, segments, compactness, baseline, run)
    choices = np.stack([run.generator(i).random(len(image)) < 0.5 for i in range(samples)])
    whole = np.ones((1, len(image)), bool)
    run.unit = "samples"
    clean = yield Query(x, target)
    values: list[float] = []

    def fitted() -> Fit:
        shown = np.concatenate([whole, choices[: len(values)]])
        return ridge_fit(shown, np.array([clean.value[0].item(), *values]), cosine_kernel(shown, kernel_width), ridge)

    run.so_far = lambda: image.explained(fitted(), clean.value[0])
    try:
        for part in run.parts(samples):
            yield from image.evaluate(choices, target, run, values, part)
            if run.stable(lambda: fitted().relative_error(image.sizes)):
                break
    except TimeUp:
        if not run.done:
            raise
        run.warn_of_time()
    fit = fitted()
    if fit.explained < MIN_EXPLAINED:
        run.warn(
            f"LOW_FIT: a linear model of which segments are shown explains {max(0.0, fit.explained):.0%} of the "
            "target's variance near the picture; try other segments, a wider kernel, or kernel_shap"
        )
    _warn_of_few(run, fit, image)
    return image.explained(fit, clean.value[0])


def kernel_shap(
    x: Tensor,
    target: Objective,
    run: MethodContext,
    *,
    samples: ChoiceCount = 150,
    segments: SegmentCount = 50,
    compactness: Compactness = 10.0,
    baseline: Baseline = "mean",
) -> Steps:
    """Shapley values of segments by regression (Lundberg & Lee 2017, theorem 2). [1, 3, H, W] -> Map.

    Choices come in pairs of complements (Covert & Lee 2021), drawn by the Shapley kernel; that the values add up is a
    constraint.
    """
    image = Segments(x, segments, compactness, baseline, run)
    choices, weights = shapley_choices(len(image), samples, run)
    has_all_choices = len(choices) == 2 ** min(len(image), 62) - 2
    run.unit = "samples"
    clean, nothing = (yield Query(image.ends(), target)).value
    values: list[float] = []

    def fitted() -> Fit:
        done = len(values)
        fit = shapley_fit(choices[:done], np.array(values), weights[:done], clean.item(), nothing.item())
        return fit._replace(errors=np.zeros(len(image))) if has_all_choices and done == len(choices) else fit

    run.so_far = lambda: image.explained(fitted(), clean)
    if not len(choices):
        run.completed(range(1))
    try:
        for part in run.parts(len(choices)) if len(choices) else ():
            yield from image.evaluate(choices, target, run, values, part)
            if not has_all_choices and run.stable(lambda: fitted().relative_error(image.sizes)):
                break
    except TimeUp:
        if not run.done:
            raise
        run.warn_of_time()
    fit = fitted()
    _warn_of_few(run, fit, image)
    return image.explained(fit, clean)


def _warn_of_few(run: MethodContext, fit: Fit, image: Segments) -> None:
    """Warns where the samples that are done do not determine the linear model."""
    if not fit.determined:
        run.warn(
            f"UNDERDETERMINED: {run.done} samples do not determine the values of {len(image)} segments, "
            "and of those that fit the smallest were taken; ask for more samples or fewer segments"
        )


def fewest_samples(parameters: Mapping[str, Any]) -> int:
    """The fewest samples that may determine the model: a pair of complements tells kernel_shap one thing."""
    count: int = parameters["segments"]
    return count + 2 if "ridge" in parameters else 2 * count


def misfits(parameters: Mapping[str, Any], size: tuple[int, int]) -> Mapping[str, str]:
    """What these parameters must be for an input of that height and width, by name, where they are not."""
    pixels, fewest = size[0] * size[1], fewest_samples(parameters)
    if parameters["segments"] > pixels:
        return {"segments": f"must be at most {pixels}, the pixels of the input, was {parameters['segments']}"}
    if parameters["samples"] < fewest:
        for_segments = f"for {parameters['segments']} segments"
        return {"samples": f"must be at least {fewest} {for_segments}, was {parameters['samples']}"}
    return {}
