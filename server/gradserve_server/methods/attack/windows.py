"""The proposals of the Square Attack in L2 (Andriushchenko et al. 2020, algorithm 3 and appendix A.2)."""

import numpy as np
import torch
from torch import Tensor

from .ball import Ball, length

TILES = 5  # Tiles along the shorter side of the start.
MIN_SIDE = 3  # Smallest side of a window in pixels; sides are odd.
TINY = 1e-12  # It keeps quotients by a norm of zero finite.


def onto_mask(top: int, left: int, side: int, mask: np.ndarray | None, rng: np.random.Generator) -> tuple[int, int]:
    """The corner of a window that meets the mask [H, W].

    One that misses it would change nothing: it is moved to where it covers a random pixel of the mask.
    """
    if mask is None or mask[top : top + side, left : left + side].any():
        return top, left
    pixel = rng.choice(np.argwhere(mask))
    ranges = [(max(0, at - side + 1), min(at, size - side)) for at, size in zip(pixel, mask.shape, strict=True)]
    top, left = (int(rng.integers(low, high + 1)) for low, high in ranges)
    return top, left


def start(x: Tensor, ball: Ball, rng: np.random.Generator) -> Tensor:
    """x [1, 3, H, W] with a grid of bumps of random signs, eps away in L2."""
    height, width = x.shape[2:]
    side = max(1, min(height, width) // TILES)
    change = torch.zeros_like(x)
    for top in range((height % side) // 2, height - side + 1, side):
        for left in range((width % side) // 2, width - side + 1, side):
            change[..., top : top + side, left : left + side] = _bump(side, rng, x) * _signs(rng, x)
    return _at_distance(change, x, ball)


def with_windows(best: Tensor, x: Tensor, ball: Ball, area: float, rng: np.random.Generator) -> Tensor:
    """The change of `best` from x with a new bump in one window, into which the norm of another one is moved.

    In each channel the bump gets the norm of both windows, and an equal part of what the change leaves of eps.
    [1, 3, H, W].
    """
    height, width = x.shape[2:]
    side = min(max(round((area * height * width) ** 0.5), MIN_SIDE) | 1, (min(height, width) - 1) | 1)
    change = best - x
    tops, lefts = rng.integers(0, height - side + 1, 2), rng.integers(0, width - side + 1, 2)
    tops[0], lefts[0] = onto_mask(tops[0], lefts[0], side, ball.mask, rng)
    new, old = ((..., slice(t, t + side), slice(w, w + side)) for t, w in zip(tops, lefts, strict=True))
    covered = torch.zeros_like(x)
    covered[new] = covered[old] = 1
    spare = max(0.0, (ball.eps or 0) ** 2 - float(change.square().sum()))
    norm = (spare / x.shape[1] + _channel_norm(change * covered).square()).sqrt()
    bump = _bump(side, rng, x) * _signs(rng, x) + change[new] / (_channel_norm(change[new]) + TINY)
    bump = bump / (_channel_norm(bump) + TINY) * norm
    change[old] = 0
    change[new] = bump
    return _at_distance(change, x, ball)


def _at_distance(change: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """x with what the change has inside the mask, eps away in L2."""
    change = ball.masked(change)
    return (x + change * ((ball.eps or 0) / length(change).clamp_min(TINY))).clamp(0, 1)


def _channel_norm(window: Tensor) -> Tensor:
    """The L2 norm of each channel, [1, 3, 1, 1]."""
    return window.square().sum((2, 3), keepdim=True).sqrt()


def _signs(rng: np.random.Generator, x: Tensor) -> Tensor:
    return torch.from_numpy(rng.choice([-1.0, 1.0], (1, x.shape[1], 1, 1))).to(x)


def _bump(side: int, rng: np.random.Generator, x: Tensor) -> Tensor:
    """Two halves of opposite signs, either side by side or one above the other, of norm one. [side, side]."""
    bump = np.zeros((side, side))
    if side > 1:
        bump[: side // 2] = _pyramid(side // 2, side)
    bump[side // 2 :] = -_pyramid(side - side // 2, side)
    bump /= np.linalg.norm(bump)
    return torch.from_numpy(bump if rng.random() < 0.5 else bump.T.copy()).to(x)


def _pyramid(height: int, width: int) -> np.ndarray:
    """Nested rectangles around the middle, the k-th of which adds 1 / k^2, of norm one (the paper's eq. 2)."""
    pyramid = np.zeros((height, width))
    top, left = height // 2, width // 2
    for k in range(max(height // 2, width // 2) + 1):
        rows = slice(max(top - k, 0), max(min(top + k + 1, height), 0))
        columns = slice(max(left - k, 0), max(min(left + k + 1, width), 0))
        pyramid[rows, columns] += 1 / (k + 1) ** 2
    return pyramid / np.linalg.norm(pyramid)
