"""What the outputs of a network look like over trial images, and over images far beyond black and white.

Ordinary logits may lie in any range by chance on a few images. Stretched images tell that from a range which a network
never leaves. A network that normalises its features gives much the same for a stretched image; so what its last linear
layer gives is stretched as well, which changes everything that comes after it.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from .outputs import logits_of
from .scales import ROUNDING_ULPS

SUM_TOLERANCE = 1e-4  # Largest distance of a sum of probabilities from 1, and of an output from a bound.
ROUNDED_SUM_TOLERANCE = 0.05  # The same for probabilities that were rounded.
EQUAL_TOLERANCE = 1e-5  # Largest difference of two outputs that count as equal, as a share of the largest output.
TANH_END = 0.99  # Smallest absolute value that counts as an end of [-1, 1].
STRETCHES = (-1.0, 3.0, -30.0, 30.0, 1000.0)  # Factors of the images; the largest saturate any softmax or sigmoid.
STEEPNESSES = (-1e5, -1000.0, -3.0, 3.0, 1000.0, 1e5)  # Factors of the last linear layer's output.
HALVINGS = 24  # How often the way between two images is halved, down to the resolution of float32.

Condition = Callable[[Tensor], Tensor]


class Trials:
    """A network in eval mode with its outputs [N, C] for normalised trial images [N, channels, H, W]."""

    def __init__(self, network: nn.Module, images: Tensor, output: Tensor) -> None:
        self._network, self._images = network, images
        self.output = output.float()

    @cached_property
    def _stretched(self) -> list[tuple[Tensor, Tensor]]:
        """Stretched images with their outputs, if the network takes them."""
        return list(self._stretches())

    def _stretches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for factor in STRETCHES:
            with contextlib.suppress(Exception):
                yield self._images * factor, self._outputs(self._images * factor)

    @cached_property
    def _steep(self) -> list[Tensor]:
        """Outputs for the trial images where the last linear layer's output is stretched, if there is such a layer."""
        outputs: list[Tensor] = []
        layer = _last_linear(self._network, self._images)
        if layer is None:
            return []
        for factor in STEEPNESSES:
            handle = layer.register_forward_hook(lambda _, __, out, factor=factor: out * factor)
            with contextlib.suppress(Exception):
                outputs.append(self._outputs(self._images))
            handle.remove()
        return outputs

    def _outputs(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return logits_of(self._network(images.clone())).float().reshape(len(images), -1)

    @cached_property
    def _all(self) -> Tensor:
        """All outputs [rows, C], without those that are NaN."""
        rows = torch.cat(self._each)
        return rows[~rows.isnan().any(1)]

    @property
    def _each(self) -> list[Tensor]:
        """The outputs of the trial images, as they are and stretched in every way: [N, C] each."""
        return [self.output, *(output for _, output in self._stretched), *self._steep]

    def are_constant(self) -> bool:
        """Whether no image has other outputs than the first."""
        rows = torch.cat([self.output, *(output for _, output in self._stretched)])
        return _is_constant(rows[~rows.isnan().any(1)])

    def are_decisions(self) -> bool:
        """Whether the outputs are 0 or 1 for every image, not all 0, and jump from one to the other."""
        if not _are_bits(self.output) or not _are_bits(self._all) or not self._all.any():
            return False
        images = torch.cat([self._images, *(images for images, _ in self._stretched)])
        rows = torch.cat([self.output, *(output for _, output in self._stretched)])
        others = [i for i in range(len(rows)) if not rows[i].isnan().any() and not torch.equal(rows[i], rows[0])]
        return not others or self._jumps(images[:1], images[others[0] :][:1])

    def _jumps(self, first: Tensor, second: Tensor) -> bool:
        """Whether nothing but 0 and 1 is found on the way between two images with different outputs."""
        start = self._outputs(first)
        for _ in range(HALVINGS):
            middle = (first + second) / 2
            output = self._outputs(middle)
            if not _are_bits(output):
                return False
            first, second = (middle, second) if torch.equal(output, start) else (first, middle)
        return True

    def are_probabilities(self, tolerance: float = SUM_TOLERANCE) -> bool:
        """Whether each trial image's outputs sum to 1, and no image has an output below 0 or a sum above 1."""
        off = (self.output.sum(1) - 1).abs()
        if not bool((self.output >= 0).all() and (off <= tolerance).all()):
            return False
        return bool((self._all >= 0).all() and (self._all.sum(1) <= 1 + tolerance).all())

    def are_log_probabilities(self, sign: int = 1) -> bool:
        """Whether the exponentials of each trial image's outputs, or of their negatives (sign -1), sum to 1."""
        return bool(((sign * self.output).logsumexp(1).abs() <= SUM_TOLERANCE).all())

    def have_sign(self, sign: int) -> bool:
        """Whether all outputs are 0 or have that sign, for every image."""
        return bool((sign * self.output >= 0).all() and (sign * self._all >= 0).all())

    def stay_in_unit(self) -> bool:
        """Whether all outputs are within [0, 1] for every image; NaN is left out."""
        return _in_unit(self.output) and _in_unit(self._all)

    def are_scaled_probabilities(self) -> bool:
        """Whether each image's outputs have the same sum, and have one sign or saturate as a softmax does.

        The scores of an ordinary network may sum to the same, but take either sign and grow as its images do.
        """
        if self.output.shape[1] == 1 or not _have_one_sum(self.output) or self.are_constant():
            return False
        rows = self._all
        if not _have_one_sum(rows):
            return False
        if bool((rows >= 0).all() or (rows <= 0).all()):
            return True
        low, high = rows.min(), rows.max()
        near = EQUAL_TOLERANCE * (high - low)
        alone = ((rows <= low + near).sum(1) == rows.shape[1] - 1) & (rows.amax(1) >= high - near)
        return rows.shape[1] > 2 and int(alone.sum()) > 1

    def stay_between_zero_and_a_bound(self) -> bool:
        """Whether no output is below 0, and several images reach 0 and the same largest value, as sigmoids do."""
        if not bool((self.output >= 0).all()) or not bool((self._all >= 0).all()) or self.are_constant():
            return False
        high = self._all.max()
        return (
            bool(high.isfinite() and (self._all <= EQUAL_TOLERANCE * high).any())
            and self._reached_by(lambda rows: rows >= high * (1 - EQUAL_TOLERANCE)) > 1
        )

    def stay_between_minus_one_and_one(self) -> bool:
        """Whether all outputs are within [-1, 1], and several images reach both ends, as a tanh does."""
        if not bool((self.output.abs() <= 1).all()) or not bool((self._all.abs() <= 1).all()):
            return False
        low, high = self._reached_by(lambda rows: rows <= -TANH_END), self._reached_by(lambda rows: rows >= TANH_END)
        return min(low, high) > 1

    def are_logarithms(self, *, exclusive: bool) -> bool:
        """Whether no output exceeds 0, unlike those of an ordinary network, and several images reach 0.

        Logarithms of probabilities that exclude each other are scores: `exclusive` asks for two that reach 0 together.
        """
        if (
            not bool((self.output <= EQUAL_TOLERANCE).all())
            or not bool((self._all <= EQUAL_TOLERANCE).all())
            or self.are_constant()
        ):
            return False
        if exclusive:
            return bool(((self._all >= -EQUAL_TOLERANCE).sum(1) > 1).any())
        return self._reached_by(lambda rows: rows >= -EQUAL_TOLERANCE) > 1

    def _reached_by(self, condition: Condition) -> int:
        """How many trial images have such an output, stretched or not."""
        outputs = torch.stack(self._each)
        return int(condition(outputs).any(2).any(0).sum())


def _last_linear(network: nn.Module, images: Tensor) -> nn.Module | None:
    """The Linear or convolution that runs last, if there is one."""
    called: list[nn.Module] = []
    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_hook(lambda module, _, __: called.append(module)) for layer in layers]
    with torch.no_grad():
        network(images.clone())
    for handle in handles:
        handle.remove()
    return called[-1] if called else None


def _is_constant(rows: Tensor) -> bool:
    return torch.allclose(rows, rows[:1].expand_as(rows), rtol=0, atol=EQUAL_TOLERANCE)


def _are_bits(rows: Tensor) -> bool:
    return bool(((rows == 0) | (rows == 1)).all())


def _in_unit(rows: Tensor) -> bool:
    return bool(((rows >= -SUM_TOLERANCE) & (rows <= 1 + SUM_TOLERANCE) | rows.isnan()).all())


def _have_one_sum(rows: Tensor) -> bool:
    """Whether all rows have the same sum, up to a share of the numbers' range and the rounding of the largest."""
    sums, largest = rows.sum(1), rows.abs().max()
    rounding = ROUNDING_ULPS * rows.shape[1] * torch.finfo(rows.dtype).eps * largest
    allowed = SUM_TOLERANCE * (rows.max() - rows.min()) + rounding
    return bool(((sums - sums[0]).abs() <= allowed).all()) and bool(largest > 0)
