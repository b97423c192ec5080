"""What keeps images natural: penalties [n, 3, H, W] -> [n], and filters that are applied between steps."""

import torch
import torch.nn.functional as F
from torch import Tensor

MID_GREY = 0.5


def total_variation(x: Tensor) -> Tensor:
    """Sum of the absolute differences between neighbouring pixels (Rudin et al. 1992, anisotropic)."""
    down, right = x[:, :, 1:] - x[:, :, :-1], x[..., 1:] - x[..., :-1]
    return down.abs().sum((1, 2, 3)) + right.abs().sum((1, 2, 3))


def roughness(x: Tensor) -> Tensor:
    """Mean of the squared differences between neighbouring pixels, down plus across."""
    down, right = x[:, :, 1:] - x[:, :, :-1], x[..., 1:] - x[..., :-1]
    return down.square().mean((1, 2, 3)) + right.square().mean((1, 2, 3))


def l2(x: Tensor) -> Tensor:
    """Sum of the squared distances from grey (Simonyan et al. 2013)."""
    return (x - MID_GREY).square().sum((1, 2, 3))


def edge_energy(x: Tensor) -> Tensor:
    """Sum over scales of |d(x) - g * d(x)|^2, g a 5x5 Gaussian, d averaging by two (Fleuret's deep learning course)."""
    offsets = torch.arange(-2, 3, device=x.device, dtype=x.dtype)
    line = torch.exp(-(offsets**2) / 2)
    kernel = torch.outer(line, line)[None, None] / line.sum() ** 2
    u, energy = x.flatten(0, 1).unsqueeze(1), x.new_zeros(len(x))
    while min(u.shape[2:]) > 5:
        smooth = F.conv2d(F.pad(u, (2, 2, 2, 2), mode="reflect"), kernel)
        energy = energy + (u - smooth).square().reshape(len(x), -1).sum(1)
        u = F.avg_pool2d(u, 2)
    return energy


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with reflected edges: one direction after the other, cut at three sigma."""
    planes = x.flatten(0, 1).unsqueeze(1)
    for axis in (2, 3):
        radius = min(round(3 * sigma), x.shape[axis] - 1)  # Reflection needs more pixels than the radius.
        offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        weight = (kernel / kernel.sum()).view((1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1))
        pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        planes = F.conv2d(F.pad(planes, pad, mode="reflect"), weight)
    return planes.reshape(x.shape)


def clipped(x: Tensor, grad: Tensor, small: float, idle: float) -> Tensor:
    """Greys out the fraction `small` of the pixels that differ least from grey, and the fraction `idle` that
    contribute least to the objective, |sum over colours of (x - grey) * grad| (Yosinski et al. 2015, section 3).
    """
    off = x - MID_GREY
    norms, shares = off.norm(dim=1).flatten(1), (off * grad).sum(1).abs().flatten(1)
    keep = torch.ones_like(norms, dtype=torch.bool)
    for values, fraction in ((norms, small), (shares, idle)):
        if fraction:
            count = min(int(fraction * values.shape[1]), values.shape[1] - 1)
            keep &= values >= values.sort(1).values[:, count : count + 1]
    return MID_GREY + off * keep.reshape(len(x), 1, *x.shape[2:])
