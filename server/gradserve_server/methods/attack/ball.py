"""The budget of a perturbation: steps, projection, random starts, and an encoding in 8 bits that stays within it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...engine.job import MethodContext

Norm = Literal["linf", "l2"]
LEVELS = 255
LEVEL_TOLERANCE = 1e-6  # Tolerance in levels: 4/255 counts as four levels in spite of rounding.


@dataclass(frozen=True, slots=True, eq=False)
class Ball:
    """All pictures within eps of the original that equal it outside the mask; pixels are in [0, 1].

    Without eps the change has no bound, and without a mask every pixel may change.
    """

    norm: Norm = "linf"
    eps: float | None = None
    mask: np.ndarray | None = None  # [H, W], bool: the pixels of the model's input that may change.

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the smallest box around the mask; all without one."""
        if self.mask is None:
            return slice(None), slice(None)
        rows, columns = (np.flatnonzero(self.mask.any(axis)) for axis in (1, 0))
        return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)

    def masked(self, change: Tensor) -> Tensor:
        """The change inside the mask, and 0 outside. [n, 3, H, W]."""
        return change if self.mask is None else torch.where(torch.tensor(self.mask, device=change.device), change, 0)

    def holds(self, linf: float, l2: float) -> bool:
        """Whether a perturbation of these norms keeps to the budget, give or take the rounding of their sums."""
        return self.eps is None or (linf if self.norm == "linf" else l2) <= self.eps + LEVEL_TOLERANCE / LEVELS

    def direction(self, grad: Tensor) -> Tensor:
        """The steepest step of length one inside the mask: signs, or each row's gradient normalised. [n, 3, H, W]."""
        grad = self.masked(grad)
        if self.norm == "linf":
            return grad.sign()
        scaled = grad / length(grad, float("inf")).clamp_min(torch.finfo(grad.dtype).tiny)  # Squares may underflow.
        return scaled / length(scaled).clamp_min(1)  # A zero stays zero; the largest element of any other row is one.

    def project(self, images: Tensor, x: Tensor) -> Tensor:
        """The nearest pictures within the ball around x, with pixels in [0, 1]."""
        change = self.masked(images - x)
        if self.eps is not None and self.norm == "linf":
            change = change.clamp(-self.eps, self.eps)
        elif self.eps is not None:
            change = change * (self.eps / length(change).clamp_min(1e-12)).clamp_max(1)
        return (x + change).clamp(0, 1)

    def random(self, x: Tensor, run: MethodContext, count: int, first: int = 0) -> Tensor:
        """Starts within the ball: uniform, or for L2 a random direction at a uniform distance. [count, 3, H, W].

        They draw the samples first .. first + 2 * count - 1 of `run`.
        """
        assert self.eps is not None, "only bounded methods begin at random"
        if self.norm == "linf":
            moves = [(2 * run.noise(first + i, x, uniform=True) - 1) * self.eps for i in range(count)]
        else:
            distances = [run.noise(first + count + i, x[:, :1, :1, :1], uniform=True) for i in range(count)]
            moves = [self.eps * r * self.direction(run.noise(first + i, x)) for i, r in enumerate(distances)]
        return (x + self.masked(torch.cat(moves))).clamp(0, 1)

    def encoded(self, images: Tensor, x: Tensor) -> Tensor:
        """The images in whole levels, uint8, still within the ball around x, which is whole already. [n, 3, H, W]."""
        origin = (x * LEVELS).round()
        exact = images.clamp(0, 1) * LEVELS - origin
        change = self.masked(exact.round())
        if self.eps is not None and self.norm == "linf":
            max_change = int(self.eps * LEVELS + LEVEL_TOLERANCE)
            change = change.clamp(-max_change, max_change)
        elif self.eps is not None:
            change = torch.cat([_pull_in(c, w, self.eps * LEVELS) for c, w in _pairs(change, exact)])
        return (origin + change).to(torch.uint8)


def length(images: Tensor, order: float = 2) -> Tensor:
    """Each row's norm, [n, 1, 1, 1]."""
    norms: Tensor = torch.linalg.vector_norm(images, order, (1, 2, 3), keepdim=True)
    return norms


def pixels(encoded: Tensor, like: Tensor) -> Tensor:
    """Levels as pictures in [0, 1] of the type that the model takes."""
    return encoded.to(like.dtype) / LEVELS


def _pairs(change: Tensor, exact: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(change.split(1), exact.split(1), strict=True))


def _pull_in(change: Tensor, exact: Tensor, max_norm: float) -> Tensor:
    """Rounded changes, of which those that rounding enlarged most go one level back until the L2 norm fits."""
    double = change.double()
    excess = double.square().sum() - (max_norm + LEVEL_TOLERANCE) ** 2
    if excess <= 0:
        return change
    enlarged = (double.abs() - exact.double().abs()).flatten()
    order = enlarged.argsort(descending=True, stable=True)
    gain = (2 * double.abs() - 1).clamp_min(0).flatten()[order]  # What one level less subtracts from the squared norm.
    back = int((gain.cumsum(0) < excess).sum()) + 1
    flat = double.flatten()
    flat[order[:back]] -= flat[order[:back]].sign()
    return flat.view_as(change).to(change.dtype)
