"""Random textures in [0, 1], made from noise: what fog and frost lay over a picture."""

from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

Array = np.ndarray[Any, np.dtype[Any]]


def stretched(values: Array, shape: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Array:
    """A map [h, w], or its box (left, top, right, bottom), interpolated linearly to another shape."""
    picture = Image.fromarray(values.astype(np.float32))
    return np.asarray(picture.resize(shape[::-1], Image.Resampling.BILINEAR, box=box), np.float64)


def plasma(shape: tuple[int, int], decay: float, rng: np.random.Generator) -> Array:
    """A cloud: noise at every scale from the whole picture to a pixel, each half as wide and decay^2 times weaker.

    The spectrum of the diamond-square clouds of ImageNet-C, without their lattice. Returns [H, W] in [0, 1].
    """
    side = max(shape)
    cloud = np.zeros(shape)
    for octave in range(max(side - 1, 1).bit_length()):
        cells = 2**octave
        lattice = rng.uniform(-1, 1, (cells + 1, cells + 1))
        box = (0.5, 0.5, 0.5 + cells * shape[1] / side, 0.5 + cells * shape[0] / side)
        cloud += decay ** (-2.0 * octave) * stretched(lattice, shape, box)
    return normalised(cloud)


def frosting(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Ice on a window: feathery ridges of warped noise, thicker in places. Returns [H, W, 3] in [0, 1]."""
    side = max(shape)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float64)
    bend = [(plasma(shape, 1.4, rng) - 0.5) * 0.5 * side for _ in range(2)]
    ridges = np.zeros(shape)
    for octave in range(4):
        noise = rng.standard_normal(shape)
        wide = ndimage.gaussian_filter(noise, max(side / (14 * 2**octave), 0.6), mode="wrap")
        bent = ndimage.map_coordinates(wide, [y + bend[0], x + bend[1]], order=1, mode="wrap")
        ridges += 0.7**octave * (1 - np.minimum(np.abs(bent) / (1.5 * bent.std() + 1e-12), 1)) ** 2
    thickness = 0.35 + 0.65 * plasma(shape, 1.6, rng)
    ice = normalised(ridges) * thickness + 0.25 * thickness
    tint = np.array([0.86, 0.95, 1.0])
    return np.asarray(np.clip(ice[..., None] * tint, 0, 1))


def normalised(values: Array) -> Array:
    """Moved and scaled to span [0, 1]; zeros where all values are the same."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
