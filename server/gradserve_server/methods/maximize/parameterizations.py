"""What the optimizer moves: pixels, or the Fourier coefficients of decorrelated colours."""

from typing import Protocol

import torch
from torch import Tensor

# Square root of the covariance of ImageNet's colours, by its longest column (lucid, optvis/param/color.py).
COLOUR_CORRELATION = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
DECAY_POWER = 1.0  # Amplitudes fall with the frequency to this power.
CONTRAST_DIVISOR = 4.0  # The Fourier image is divided by this before its colours are mixed.
LOGIT_MARGIN = 0.02  # A photo is cut to this margin from 0 and 1 before its logits are taken.


class Parameterization(Protocol):
    """Images [n, 3, H, W] in [0, 1] as parameters and back."""

    def encode(self, images: Tensor) -> Tensor:
        """The parameters of images."""
        ...

    def decode(self, parameters: Tensor) -> Tensor:
        """The images, differentiable."""
        ...

    def project(self, parameters: Tensor) -> Tensor:
        """The nearest parameters of an image."""
        ...


class Pixels:
    """Pixel values, kept within [0, 1]."""

    def encode(self, images: Tensor) -> Tensor:
        """The pixels."""
        return images

    def decode(self, parameters: Tensor) -> Tensor:
        """The pixels."""
        return parameters

    def project(self, parameters: Tensor) -> Tensor:
        """Cut to [0, 1]."""
        return parameters.clamp(0, 1)


class Fourier:
    """Scaled Fourier coefficients of decorrelated colours, through a sigmoid (Olah et al. 2017, "preconditioning")."""

    def __init__(self, like: Tensor) -> None:
        height, width = like.shape[2:]
        down = torch.fft.fftfreq(height, dtype=like.dtype, device=like.device)
        across = torch.fft.rfftfreq(width, dtype=like.dtype, device=like.device)
        frequencies = (down[:, None] ** 2 + across**2).sqrt().clamp_min(1 / max(height, width))
        self._scale = 1 / frequencies**DECAY_POWER / CONTRAST_DIVISOR
        self._size = (height, width)
        colours = torch.tensor(COLOUR_CORRELATION, dtype=like.dtype, device=like.device)
        self._mix = colours / colours.norm(dim=0).max()

    def encode(self, images: Tensor) -> Tensor:
        """[n, 3, H, W] -> [n, 3, H, W // 2 + 1, 2]."""
        logits = torch.logit(images, LOGIT_MARGIN)
        plain = torch.einsum("ij,njhw->nihw", torch.linalg.inv(self._mix), logits)
        return torch.view_as_real(torch.fft.rfft2(plain, norm="ortho") / self._scale)

    def decode(self, parameters: Tensor) -> Tensor:
        """[n, 3, H, W // 2 + 1, 2] -> [n, 3, H, W]."""
        spectrum = torch.view_as_complex(parameters.contiguous()) * self._scale
        plain = torch.fft.irfft2(spectrum, s=self._size, norm="ortho")
        return torch.einsum("ij,njhw->nihw", self._mix, plain).sigmoid()

    def project(self, parameters: Tensor) -> Tensor:
        """All parameters are those of an image."""
        return parameters
