"""How the attacked system sees a picture before the model does: random changes of it, then a defence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...engine.job import MethodContext
from ..parameters import Degrees, Restarts, Share, Unit
from .defences import DEFENCES, DRAWS, SEEN

Pull = Callable[[Tensor], Tensor]
CRAFTING, JUDGING = 1 << 32, 1 << 33  # sample indices of random changes, away from those of starts
MAX_VIEWS = 64


def eot(
    images: Tensor,
    run: MethodContext,
    index: int,
    *,
    samples: Restarts = 8,
    rotation: Degrees = 10.0,
    scale: Share = 0.1,
    brightness: Unit = 0.1,
    noise: Unit = 0.02,
) -> Tensor:
    """Random rotation, scale, brightness and noise: `samples` of each image. [n, 3, H, W] -> [n * samples, 3, H, W].

    Expectation over transformation (Athalye et al. 2018); all images get the same changes.
    """
    rng, count = run.generator(index), len(images)
    angles = np.deg2rad(rng.uniform(-rotation, rotation, samples))
    factors = rng.uniform(1 - scale, 1 + scale, samples)
    shifts = torch.from_numpy(rng.uniform(-brightness, brightness, samples)).to(images)
    grains = torch.cat([run.noise(index + 1 + i, images[:1]) for i in range(samples)])
    rows = images.repeat_interleave(samples, 0)
    turned = _turned(rows, np.tile(angles, count), np.tile(factors, count))
    return (turned + shifts.repeat(count).view(-1, 1, 1, 1) + noise * grains.repeat(count, 1, 1, 1)).clamp(0, 1)


def _turned(images: Tensor, angles: np.ndarray, factors: np.ndarray) -> Tensor:
    """Each image rotated and scaled about its middle; what comes in from outside repeats the edge."""
    height, width = images.shape[2:]
    cos, sin = np.cos(angles) / factors, np.sin(angles) / factors
    theta = np.zeros((len(images), 2, 3))
    theta[:, 0, 0], theta[:, 0, 1] = cos, sin * height / width
    theta[:, 1, 0], theta[:, 1, 1] = -sin * width / height, cos
    grid = F.affine_grid(torch.from_numpy(theta).to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@dataclass(frozen=True, slots=True)
class InputTransform:
    """Each picture becomes `views` rows: the parameters of `eot`, and a defence by name with its parameters."""

    eot: Mapping[str, Any] | None = None
    defence: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def views(self) -> int:
        """Rows for each picture of an attack."""
        samples = int(self.eot["samples"]) if self.eot else 1
        return samples * (SEEN if self.defence == "noise" and not self.eot else 1)

    def bare(self) -> "InputTransform":
        """The same without the defence."""
        return replace(self, defence="", parameters={})

    def defended(self) -> "InputTransform":
        """The same without random changes: what is judged."""
        return replace(self, eot=None)

    def judge(self, x: Tensor, run: MethodContext) -> Tensor:
        """What the model is judged on: the picture through the defence alone, [n, 3, H, W]."""
        rows = x.repeat(DRAWS, 1, 1, 1) if self.defence == "noise" else x
        return self._through(rows, run, JUDGING)

    def see(self, images: Tensor, run: MethodContext, step: int) -> tuple[Tensor, Pull]:
        """The rows that the model gets, [n * views, 3, H, W], and what takes their gradients back to the pictures'."""
        if self == InputTransform():
            return images, lambda grad: grad
        index = CRAFTING + step * 2 * MAX_VIEWS
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            repeated = leaf.repeat_interleave(self.views, 0) if not self.eot else eot(leaf, run, index, **self.eot)
            rows = self._through(repeated, run, index + MAX_VIEWS + 1)
        return rows.detach(), lambda grad: torch.autograd.grad(rows, leaf, grad)[0] / self.views

    def _through(self, rows: Tensor, run: MethodContext, index: int) -> Tensor:
        return DEFENCES[self.defence](rows, run, index, **self.parameters) if self.defence else rows
