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
from .defences import DEFENCES, DRAWS_PER_JUDGEMENT, DRAWS_PER_STEP

Pull = Callable[[Tensor], Tensor]  # From the gradients by the rows of a pass to those by the pictures.
# Random changes have sample indices from here on in an attack and in a judgement; starts have lower ones.
ATTACK_INDEX, JUDGEMENT_INDEX = 1 << 32, 1 << 33
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
    turned = _rotate(rows, np.tile(angles, count), np.tile(factors, count))
    return (turned + shifts.repeat(count).view(-1, 1, 1, 1) + noise * grains.repeat(count, 1, 1, 1)).clamp(0, 1)


def _rotate(images: Tensor, angles: np.ndarray, factors: np.ndarray) -> Tensor:
    """Each image rotated and scaled about its middle; the edge is repeated outside."""
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
        return samples * (DRAWS_PER_STEP if self.defence == "noise" and not self.eot else 1)

    def without_defence(self) -> "InputTransform":
        """The same without the defence."""
        return replace(self, defence="", parameters={})

    def without_eot(self) -> "InputTransform":
        """The same without random changes, as the certificate needs it."""
        return replace(self, eot=None)

    def rows_to_judge(self, x: Tensor, run: MethodContext) -> Tensor:
        """The picture after the defence alone, on which a success is judged, [n, 3, H, W]."""
        rows = x.repeat(DRAWS_PER_JUDGEMENT, 1, 1, 1) if self.defence == "noise" else x
        return self._defend(rows, run, JUDGEMENT_INDEX)

    def apply(self, images: Tensor, run: MethodContext, step: int) -> tuple[Tensor, Pull]:
        """The model's rows [n * views, 3, H, W], and the function from their gradients to the pictures'."""
        if self == InputTransform():
            return images, lambda grad: grad
        index = ATTACK_INDEX + step * 2 * MAX_VIEWS
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            repeated = leaf.repeat_interleave(self.views, 0) if not self.eot else eot(leaf, run, index, **self.eot)
            rows = self._defend(repeated, run, index + MAX_VIEWS + 1)
        return rows.detach(), lambda grad: torch.autograd.grad(rows, leaf, grad)[0] / self.views

    def _defend(self, rows: Tensor, run: MethodContext, index: int) -> Tensor:
        return DEFENCES[self.defence](rows, run, index, **self.parameters) if self.defence else rows
