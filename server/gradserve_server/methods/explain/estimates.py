"""What samples say of a map: their mean or slope so far, and by how much it would differ with other samples.

Relative standard errors are the root of the sum of the squared standard errors of all values, over that of the squared
values. Sums are of distances from means, and are merged in double precision (Chan et al. 1979, Pébay 2008), so that
nothing cancels.
"""

import math

import torch
from torch import Tensor

MIN_EACH_WAY = 5.0  # Masks that must have shown a pixel, and that must have hidden it, for an error to be told.


class SampleMoments:
    """Mean and central moments of samples of one shape."""

    def __init__(self, like: Tensor, *, of_variance: bool = False) -> None:
        """`of_variance`: whether the error of the variance is wanted too, which takes the fourth moment."""
        self.count = 0
        self.mean = torch.zeros_like(like, dtype=torch.float64)
        self._second = torch.zeros_like(self.mean)  # Sums of powers of the distances from the mean.
        self._third = torch.zeros_like(self.mean) if of_variance else None
        self._fourth = torch.zeros_like(self.mean) if of_variance else None

    def add(self, samples: Tensor) -> None:
        """Takes in more samples, [n, ...]: their own moments, which lose nothing, are merged with those so far."""
        a, b = self.count, len(samples)
        n = a + b
        mean = samples.mean(0)
        distances = samples - mean
        step = mean.double() - self.mean
        squares = distances.square()
        second = squares.sum(0).double()
        if self._third is not None and self._fourth is not None:
            third, fourth = distances.mul_(squares).sum(0).double(), squares.square_().sum(0).double()
            self._fourth += fourth + step**4 * (a * b * (a * a - a * b + b * b) / n**3)
            self._fourth += 6 * step**2 * (a * a * second + b * b * self._second) / n**2
            self._fourth += 4 * step * (a * third - b * self._third) / n
            self._third += third + step**3 * (a * b * (a - b) / n**2)
            self._third += 3 * step * (a * second - b * self._second) / n
        self._second += second + step.square() * (a * b / n)
        self.mean += step * (b / n)
        self.count = n

    @property
    def variance(self) -> Tensor:
        """The mean squared distance from the mean."""
        return self._second / self.count

    def error_of_mean(self) -> float | None:
        """The relative standard error of the mean; None where it cannot be told."""
        if self.count < 2:
            return None
        return relative_error(self._second / (self.count * (self.count - 1)), self.mean)

    def error_of_variance(self) -> float | None:
        """The relative standard error of the variance, from the fourth moment; None where it cannot be told."""
        assert self._fourth is not None, "it is made with `of_variance`"
        n = self.count
        if n < 4:
            return None
        squares = (self._fourth / n - self.variance.square() * (n - 3) / (n - 1)) / n
        return relative_error(squares, self.variance)


class SampleSlopes:
    """The slope of a value on each pixel of a mask, by least squares with an intercept."""

    def __init__(self, like: Tensor) -> None:
        self.count = 0
        self._mask_mean = torch.zeros_like(like, dtype=torch.float64)
        self._value_mean = torch.zeros((), dtype=torch.float64, device=like.device)
        self._mask_squares = torch.zeros_like(self._mask_mean)
        self._value_squares = torch.zeros_like(self._value_mean)
        self._products = torch.zeros_like(self._mask_mean)

    def add(self, mask: Tensor, value: Tensor) -> None:
        """Takes in one more mask [H, W] with the value [] under it."""
        self.count += 1
        mask_distance, value_distance = mask.double() - self._mask_mean, value.double() - self._value_mean
        self._mask_mean += mask_distance / self.count
        self._value_mean += value_distance / self.count
        rest = value.double() - self._value_mean
        self._mask_squares += mask_distance * (mask.double() - self._mask_mean)
        self._products += mask_distance * rest
        self._value_squares += value_distance * rest

    @property
    def slopes(self) -> Tensor:
        """Covariance over variance, [H, W]; 0 where all masks have been the same."""
        return torch.where(self._mask_squares > 0, self._products / self._mask_squares, 0.0)

    @property
    def varied(self) -> bool:
        """Whether the masks have differed in any pixel."""
        return bool((self._mask_squares > 0).any())

    def error(self) -> float | None:
        """The relative standard error of the slopes; None where it cannot be told.

        It takes some masks that show each pixel and some that hide it; a mask between 0 and 1 counts for both in part.
        """
        rarer = torch.minimum(self._mask_mean, 1 - self._mask_mean).min().item() * self.count
        if rarer < MIN_EACH_WAY or not (self._mask_squares > 0).all():
            return None
        unexplained = (self._value_squares - self.slopes * self._products).clamp_min(0) / (self.count - 2)
        return relative_error(unexplained / self._mask_squares, self.slopes)


def relative_error(squared_errors: Tensor, values: Tensor) -> float | None:
    """The relative standard error; 0 where nothing varies, None for values of 0 that do."""
    error, size = math.sqrt(max(0.0, float(squared_errors.sum()))), float(values.norm())
    return error / size if size else None if error else 0.0
