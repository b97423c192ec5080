"""The receptive field of a unit: the support of its gradient by the pixels, which needs no arithmetic over layers."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ...engine.objective import NotApplicable, Objective, Term
from ...engine.query import Answer, Query, Tap

PICTURES = 4  # Random pictures of a pass; one alone leaves holes where ReLUs do not fire.
DRAWS = 64  # At least so many pictures times channels: max pooling hands a gradient to one pixel of its window alone.
# A gradient at the field's edge below this is faint: float32, which ends at 1e-45, may have lost those farther out.
MAX_FAINT_GRADIENT = 1e-30
NEIGHBOURS = (-1, 1)  # Distances of the units, down and to the right, by which the stride is measured.
EFFECTIVE_SHARE = 0.9  # The share of the mean absolute gradient inside the square of the effective size.
BISECTIONS = 50
NO_GRADIENT = "its channel does not fire there, its gradient vanishes, or it does not depend on the picture"


@dataclass(frozen=True, slots=True)
class FieldArguments:
    """Of which unit: channels of a layer whose sum, with random signs, is differentiated."""

    layer: str
    channels: tuple[int, ...]
    is_map: bool  # Whether it has positions; if not, the unit is an element of a vector.
    sizes: tuple[tuple[int, int], ...]  # Height and width of the pictures to try, growing.


class Extent(NamedTuple):
    """Rows from `top` to below `bottom`, columns from `left` to below `right`."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True)
class Field:
    """What was measured on a picture of that height and width, of the unit at y and x."""

    extent: Extent
    picture: tuple[int, int]
    unit: tuple[int, int]
    stride: tuple[int | None, int | None]
    effective: float
    faint: bool  # Whether the gradient at its edge is so small that float32 may have lost what lies beyond.

    @property
    def at_borders(self) -> tuple[bool, bool, bool, bool]:
        """Whether it touches the picture's border: at the top, left, bottom and right."""
        height, width = self.picture
        top, left, bottom, right = self.extent
        return top == 0, left == 0, bottom == height, right == width


def receptive_field(run: MethodContext, x: Tensor, arguments: FieldArguments) -> Steps:
    """-> Field, on the first size where it does not touch the border, or the last. Of x only device and type count."""
    for size in arguments.sizes:
        last = size == arguments.sizes[-1]
        images = _pictures(run, x, size, 0)
        height, width = 1, 1
        if arguments.is_map:
            answer = yield Query(images[:1], taps=(Tap(arguments.layer),))
            height, width = answer.acts[0].shape[2:]
        unit = height // 2, width // 2
        gradient = absolute((yield Query(images[:1], _objective(run, arguments, unit), "image")))
        for i in range(rounds(len(arguments.channels))):
            if support(gradient) == (0, 0, *size) or (_is_cut(gradient) and not last):
                break  # More pictures show no more.
            more = _pictures(run, x, size, i) if i else images[1:]
            gradient = gradient + absolute((yield Query(more, _objective(run, arguments, unit), "image")))
        if _is_cut(gradient) and not last:
            continue
        if not gradient.any():
            count = PICTURES * rounds(len(arguments.channels))
            what = f"on {count} random pictures no pixel changes {arguments.layer}: {NO_GRADIENT}"
            raise NotApplicable(f"{what}; name another layer{'' if arguments.channels[1:] else ' or channel'}")
        extent = support(gradient)
        stride: tuple[int | None, int | None] = (None, None)
        if not _is_cut(gradient):
            stride = yield from _stride(run, images, arguments, unit, (height, width), extent)
        effective = effective_size(gradient, _middle(extent, gradient, unit, height, width))
        return Field(extent, size, unit, stride, effective, is_faint(gradient, extent))
    raise AssertionError("one size is the last")


def rounds(channels: int) -> int:
    """How many times PICTURES are needed for a unit of so many channels."""
    return max(1, math.ceil(DRAWS / (PICTURES * channels)))


def _pictures(run: MethodContext, x: Tensor, size: tuple[int, int], i: int) -> Tensor:
    """Random pictures number i, [PICTURES, 3, H, W] in [0, 1]."""
    numbers = range(PICTURES * i, PICTURES * (i + 1))
    return torch.cat([run.noise(number, x.new_empty(1, 3, *size), uniform=True) for number in numbers])


def absolute(answer: Answer) -> np.ndarray:
    """The absolute gradient by the pixels, summed over pictures and colours: [H, W], float64."""
    assert answer.image_grad is not None, "the query differentiates by the image"
    return np.asarray(answer.image_grad.double().abs().sum((0, 1)).cpu().numpy())


def support(gradient: np.ndarray) -> Extent:
    """The smallest box around all that is not zero; nothing at the origin where all is."""
    rows, columns = (np.flatnonzero(gradient.any(axis)) for axis in (1, 0))
    if not rows.size:
        return Extent(0, 0, 0, 0)
    return Extent(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def is_faint(gradient: np.ndarray, extent: Extent) -> bool:
    """Whether the largest gradient of one of the field's outermost lines is below MAX_FAINT_GRADIENT."""
    inside = gradient[extent.top : extent.bottom, extent.left : extent.right]
    outermost = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
    return min(float(line.max()) for line in outermost) < MAX_FAINT_GRADIENT


def _is_cut(gradient: np.ndarray) -> bool:
    """Whether it reaches the picture's border, so that on a larger picture it may be larger."""
    return bool(gradient[[0, -1]].any() or gradient[:, [0, -1]].any())


def _objective(run: MethodContext, arguments: FieldArguments, unit: tuple[int, int]) -> Objective:
    """The sum of the channels at that place with random signs, lest a normalisation make their plain sum constant."""
    signs = run.generator(PICTURES).choice([-1.0, 1.0], len(arguments.channels))
    kind, place = ("unit", unit) if arguments.is_map else ("channel", ())
    channels = zip(arguments.channels, signs.tolist(), strict=True)
    return Objective(tuple(Term(kind, arguments.layer, (channel, *place), sign) for channel, sign in channels))


def _stride(
    run: MethodContext,
    images: Tensor,
    arguments: FieldArguments,
    unit: tuple[int, int],
    size: tuple[int, int],
    extent: Extent,
) -> Steps:
    """Pixels by which the field moves from a unit to the next one, by rows and by columns; None where that is unclear.

    Two neighbours must agree, which they do not where a layer enlarges its map by another factor than a whole one.
    """
    if not all(1 <= at < end - 1 for at, end in zip(unit, size, strict=True)):
        return None, None
    units = [(unit[0] + distance, unit[1] + distance) for distance in NEIGHBOURS]
    answers = yield [Query(images, _objective(run, arguments, each), "image") for each in units]
    gradients = [absolute(answer) for answer in answers]
    if any(map(_is_cut, gradients)):
        return None, None
    before, after = map(support, gradients)
    return tuple(_step(before[axis], extent[axis], after[axis]) for axis in (0, 1))


def _step(before: int, here: int, after: int) -> int | None:
    return here - before if here - before == after - here > 0 else None


def _middle(
    extent: Extent, gradient: np.ndarray, unit: tuple[int, int], height: int, width: int
) -> tuple[float, float]:
    """The middle of the field, or of the unit's cell where the picture cuts the field off."""
    if _is_cut(gradient):
        rows, columns = gradient.shape
        return (unit[0] + 0.5) * rows / height, (unit[1] + 0.5) * columns / width
    return (extent.top + extent.bottom) / 2, (extent.left + extent.right) / 2


def effective_size(gradient: np.ndarray, middle: tuple[float, float]) -> float:
    """The side of the square around `middle` that holds EFFECTIVE_SHARE of the gradient [H, W] (Luo et al. 2016).

    Pixels that the square cuts count by the part that is inside.
    """
    enough = EFFECTIVE_SHARE * float(gradient.sum())
    low, high = 0.0, 2.0 * float(max(gradient.shape))
    for _ in range(BISECTIONS):
        side = (low + high) / 2
        inside = [_covered(n, at, side) for n, at in zip(gradient.shape, middle, strict=True)]
        low, high = (low, side) if inside[0] @ gradient @ inside[1] >= enough else (side, high)
    return high


def _covered(pixels: int, middle: float, side: float) -> np.ndarray:
    """How much of each pixel of a line lies within `side` around `middle`, in [0, 1]."""
    begins = np.arange(pixels)
    ends = np.minimum(begins + 1, middle + side / 2)
    return np.asarray(np.clip(ends - np.maximum(begins, middle - side / 2), 0, 1))
