"""Certify: the class that a picture has under Gaussian noise, and a radius within which that is proven.

Randomised smoothing (Cohen, Rosenfeld, Kolter 2019): CERTIFY of section 3.2, with theorem 1.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv, ndtri
from torch import Tensor

from ..engine.job import Job, Steps
from ..engine.query import Query
from .parameters import Alpha, NoiseSamples, Sigma


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothingArguments:
    """The noise and the numbers of samples, all of them fixed before the first is drawn."""

    sigma: Sigma = 0.25  # Standard deviation, of pixels in [0, 1].
    selection_samples: NoiseSamples = 100
    samples: NoiseSamples = 1000
    alpha: Alpha = 0.001


@dataclass(frozen=True, slots=True)
class Smoothed:
    """What the samples gave: the logits without noise [classes], and how often each class came in both parts [classes].

    candidate: the class that the selection chose. lower_bound: of its probability under the noise. radius: in L2, of
    pixels in [0, 1]; 0 where the smoothed classifier abstains.
    """

    logits: np.ndarray
    selection: np.ndarray
    counts: np.ndarray
    candidate: int
    lower_bound: float
    radius: float

    @property
    def abstains(self) -> bool:
        """Whether no class is proven to be the most frequent one."""
        return self.lower_bound <= 0.5


def certify(job: Job, x: Tensor, arguments: SmoothingArguments) -> Steps:
    """[1, 3, H, W] -> Smoothed. The first samples choose the class, which is counted in the others.

    The noisy pixels are not clipped, as in the paper: clipping would make the noise another one near black and white.
    """
    run = job.run()
    run.unit = "samples"
    plain = yield Query(x)
    chosen_by = arguments.selection_samples
    counts = np.zeros((2, plain.logits.shape[1]), np.int64)
    for part in run.parts(chosen_by + arguments.samples):
        noisy = torch.cat([run.noise(i, x).mul_(arguments.sigma).add_(x) for i in part])
        classes = (yield Query(noisy)).logits.argmax(1).cpu().numpy()
        split = max(0, chosen_by - part.start)
        for count, some in zip(counts, (classes[:split], classes[split:]), strict=True):
            count += np.bincount(some, minlength=len(count))
        run.completed(part)
    candidate = int(counts[0].argmax())
    bound = lower_bound(int(counts[1, candidate]), arguments.samples, arguments.alpha)
    radius = arguments.sigma * float(ndtri(bound)) if bound > 0.5 else 0.0
    return Smoothed(plain.logits[0].float().cpu().numpy(), counts[0], counts[1], candidate, bound, radius)


def lower_bound(successes: int, trials: int, alpha: float) -> float:
    """The one-sided lower bound of a probability at the confidence 1 - alpha (Clopper, Pearson 1934)."""
    return float(betaincinv(successes, trials - successes + 1, alpha)) if successes else 0.0
