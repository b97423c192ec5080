"""What the model sees of an image at one step: shifted, scaled, turned and noisy, so that no single pixel matters."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...engine.job import MethodContext
from ..regularizers import MID_GREY

NUMBERS_PER_VIEW = 4  # Random numbers of a view: shifts down and across, scale, angle.


@dataclass(frozen=True, slots=True)
class View:
    """One view's numbers: pixels of grey around, shifts in pixels, a factor, degrees, and noise to be added."""

    pad: int = 0
    down: int = 0
    across: int = 0
    factor: float = 1.0
    angle: float = 0.0
    noise: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """[n, 3, H, W] -> [n, 3, H + 2 pad, W + 2 pad], differentiable."""
        viewed = F.pad(images, (self.pad,) * 4, value=MID_GREY) if self.pad else images
        if self.down or self.across:
            viewed = viewed.roll((self.down, self.across), (2, 3))
        if self.factor != 1 or self.angle:
            viewed = turned(viewed, self.factor, self.angle)
        return viewed if self.noise is None else viewed + self.noise


def turned(images: Tensor, factor: float, degrees: float) -> Tensor:
    """Enlarged and turned counterclockwise about the centre, bilinear, grey outside."""
    height, width = images.shape[2:]
    cosine, sine = (f(math.radians(degrees)) / factor for f in (math.cos, math.sin))
    # These map places in the result to places in the image; affine_grid counts in halves of each side.
    rows = [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]
    theta = torch.tensor([rows], dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images - MID_GREY, grid, align_corners=False) + MID_GREY


@dataclass(frozen=True, slots=True)
class Views:
    """How views are drawn: pad and jitter as fractions of the shorter side, the others as their own ranges."""

    pad: float
    jitter: float
    scale: float
    rotate: float
    noise: float

    def draw(self, step: int, images: Tensor, run: MethodContext) -> View:
        """The view of a step, by the request's seed."""
        side = min(images.shape[2:])
        pad, reach = round(self.pad * side), round(self.jitter * side)
        down, across, scale, angle = (
            run.noise(2 * step + 1, torch.zeros(NUMBERS_PER_VIEW), uniform=True).mul(2).sub(1).tolist()
        )
        size = images[:1].new_zeros(1, 3, *(length + 2 * pad for length in images.shape[2:]))
        return View(
            pad=pad,
            down=round(down * reach),
            across=round(across * reach),
            factor=1 + self.scale * scale,
            angle=self.rotate * angle,
            noise=self.noise * run.noise(2 * step + 2, size) if self.noise else None,
        )
