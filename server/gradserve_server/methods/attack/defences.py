"""What may stand before a model: defences to measure, not to trust. DEFENCES lists them all.

Where a defence has no gradient, an attack that knows it takes the identity's (BPDA, Athalye et al. 2018).
"""

import io
from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from ...engine.job import MethodContext
from ..parameters import Fraction
from ..regularizers import blurred

Quality = Annotated[int, Field(ge=1, le=100)]
Bits = Annotated[int, Field(ge=1, le=7)]
Sigma = Annotated[float, Field(gt=0, le=16)]
# Draws of a random defence in each step of an attack, and for a judgement.
DRAWS_PER_STEP, DRAWS_PER_JUDGEMENT = 8, 16


def jpeg(images: Tensor, run: MethodContext, index: int, *, quality: Quality = 75) -> Tensor:
    """JPEG compression, with the identity's gradient. [n, 3, H, W]."""
    levels = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    files = np.stack([_compress(picture, quality) for picture in levels])
    return _with_identity_gradient(images, torch.from_numpy(files).permute(0, 3, 1, 2).to(images) / 255)


def bit_depth(images: Tensor, run: MethodContext, index: int, *, bits: Bits = 4) -> Tensor:
    """Fewer levels for each channel, with the identity's gradient (Xu et al. 2018)."""
    steps = 2**bits - 1
    return _with_identity_gradient(images, (images.detach() * steps).round() / steps)


def blur(images: Tensor, run: MethodContext, index: int, *, sigma: Sigma = 1.0) -> Tensor:
    """Gaussian blur, with its own gradient."""
    return blurred(images, sigma)


def noise(images: Tensor, run: MethodContext, index: int, *, std: Fraction = 0.05) -> Tensor:
    """Gaussian noise, drawn for each image."""
    return images + std * torch.cat([run.noise(index + i, images[:1].detach()) for i in range(len(images))])


DEFENCES: Mapping[str, Callable[..., Tensor]] = {"jpeg": jpeg, "bit_depth": bit_depth, "blur": blur, "noise": noise}


def _with_identity_gradient(images: Tensor, hard: Tensor) -> Tensor:
    """The values of `hard` with the gradient of `images`."""
    return hard + (images - images.detach())


def _compress(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as picture:
        return np.asarray(picture)
