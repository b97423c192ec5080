"""Pictures of 8 bits resized as torchvision resizes tensors, equal to it to the bit. It needs no torch.

Pillow and torch use the same filters, but torch rounds the filters' weights to 16 bits, and so rounds some pixels to
another level.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

WEIGHT_BITS = 15  # The bits of the largest weight, without its sign.
MAX_PRECISION = 22  # The most bits that torch's weights have after the point.
EXACT_FLOAT32 = 1 << 24  # Whole numbers below this are exact in float32.
BICUBIC_SLOPE = -0.5  # Keys' parameter a, as Pillow has it too.
STRIP = 128  # Rows of a picture whose width is changed together.

Array = np.ndarray[Any, Any]


def _bilinear(x: Array) -> Array:
    return np.asarray(np.maximum(1 - np.abs(x), 0))


def _bicubic(x: Array) -> Array:
    x, a = np.abs(x), BICUBIC_SLOPE
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: Array) -> Array:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


class Filter(NamedTuple):
    """A filter, and the distance in pixels from which on it is 0."""

    function: Callable[[Array], Array]
    support: float


FILTERS = {
    "torch_bilinear": Filter(_bilinear, 1),
    "torch_bicubic": Filter(_bicubic, 2),
    "torch_lanczos": Filter(_lanczos, 3),
}


class Weights(NamedTuple):
    """For each new pixel the first old one that it depends on, how many it depends on, and their weights."""

    first: Array  # [new]
    counts: Array  # [new]
    weights: Array  # [new, most], whole numbers: weights times 2 to the precision
    precision: int


def torch_resize(picture: Image.Image, height: int, width: int, filter_: str) -> Array:
    """A picture in RGB at the size [height, width, 3], by a filter of FILTERS."""
    pixels = np.asarray(picture) if width == picture.width else _narrowed(picture, width, FILTERS[filter_])
    if height == picture.height:
        return pixels
    return _resize_rows(pixels, _weights(picture.height, height, FILTERS[filter_]))


def _narrowed(picture: Image.Image, width: int, filter_: Filter) -> Array:
    """The picture at a new width, [h, width, 3], strip by strip, so that a large picture is never copied whole."""
    weights = _weights(picture.width, width, filter_)
    pixels = np.empty((picture.height, width, 3), np.uint8)
    for top in range(0, picture.height, STRIP):
        bottom = min(top + STRIP, picture.height)
        strip = np.asarray(picture.crop((0, top, picture.width, bottom)))
        pixels[top:bottom] = _resize_rows(strip.transpose(1, 0, 2), weights).transpose(1, 0, 2)
    return pixels


def _weights(old: int, new: int, filter_: Filter) -> Weights:
    """The weights of an antialiased resizing from `old` to `new` pixels."""
    scale = old / new
    support, shrunk = filter_.support * max(scale, 1), min(1 / scale, 1)
    middle = scale * (np.arange(new) + 0.5)
    first = np.maximum((middle - support + 0.5).astype(np.int64), 0)
    counts = np.minimum((middle + support + 0.5).astype(np.int64), old) - first
    offsets = np.arange(counts.max())
    values = filter_.function((offsets + (first - middle)[:, None] + 0.5) * shrunk) * (offsets < counts[:, None])
    values /= values.sum(1, keepdims=True)
    precision = 0
    while precision < MAX_PRECISION and int(0.5 + values.max() * 2 ** (precision + 1)) < 1 << WEIGHT_BITS:
        precision += 1
    whole = np.trunc(values * 2**precision + np.copysign(0.5, values))
    return Weights(first, counts, whole, precision)


def _resize_rows(picture: Array, by: Weights) -> Array:
    """A picture [old, k, 3] as [new, k, 3].

    Sums of whole numbers are exact in floats of enough bits, whatever their order.
    """
    exact = np.float32 if 255 * np.abs(by.weights).sum(1).max() < EXACT_FLOAT32 else np.float64
    rows: Array = picture.astype(exact, "C").reshape(len(picture), -1)
    weights: Array = by.weights.astype(exact)
    resized, half = np.empty((len(weights), rows.shape[1]), np.uint8), 1 << (by.precision - 1)
    for i, (begin, count) in enumerate(zip(by.first, by.counts, strict=True)):
        sums = weights[i, :count] @ rows[begin : begin + count]
        resized[i] = ((sums.astype(np.int64) + half) >> by.precision).clip(0, 255)
    return resized.reshape(len(weights), *picture.shape[1:])
