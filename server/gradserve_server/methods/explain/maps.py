"""What Explain's methods return, and how three channels become one."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..parameters import Reduce


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """A method's answer for one target."""

    values: Tensor  # [H, W]
    target_value: Tensor  # [], the target on the unchanged image
    coarse: Tensor | None = None  # [h, w], Grad-CAM before upsampling
    completeness_gap: float | None = None  # Integrated gradients alone have one.
    standard_error: float | None = None  # Of maps from samples, relative to the map; None where it cannot be told.


def reduced(pixels: Tensor, how: Reduce) -> Tensor:
    """[3, H, W] -> [H, W]."""
    if how == "signed":
        return pixels.sum(0)
    return pixels.abs().sum(0) if how == "sum" else pixels.abs().amax(0)


def upsampled(coarse: Tensor, size: tuple[int, int]) -> Tensor:
    """[h, w] -> [H, W], bilinear."""
    return F.interpolate(coarse[None, None], size, mode="bilinear", align_corners=False)[0, 0]
