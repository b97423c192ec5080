"""The 15 kinds of corruption of ImageNet-C in 5 severities each (Hendrycks & Dietterich 2019), implemented anew.

The numbers are the paper's: those of ImageNet-C, made for 224 pixels, or those of CIFAR-10-C, made for 32; lengths
grow with the picture. Three kinds differ in how they get there: frost comes from a texture that is made, not from
photographs; glass blur swaps pixels everywhere at once instead of along a sweep; motion blur has no ImageMagick below.
Their figures are therefore near to published ones, not comparable to a tenth of a percent.
"""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from .textures import frosting, plasma, stretched

Array = np.ndarray[Any, np.dtype[Any]]
SEVERITIES = (1, 2, 3, 4, 5)
MIN_LARGE_SIDE = 96  # Pictures with a shorter side than this get CIFAR-10-C's numbers.
LUMINANCE = np.array([0.299, 0.587, 0.114])


class Scene(NamedTuple):
    """A picture [H, W, 3] in [0, 1], how many pixels the table's pixel is long here, and where chance comes from."""

    x: Array
    pixel: float
    rng: np.random.Generator


class Kind(NamedTuple):
    """A corruption and its numbers for each severity: ImageNet-C's, and CIFAR-10-C's."""

    function: Callable[..., Array]
    large: tuple[tuple[float, ...], ...]
    small: tuple[tuple[float, ...], ...]


def corrupt(image: Array, kind: str, severity: int, seed: int = 0) -> Array:
    """The corrupted picture, uint8 [H, W, 3] as before. severity: 1 to 5; the same seed corrupts in the same way.

    Raises KeyError for a kind that is not in KINDS, ValueError for another severity.
    """
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1 to 5, not {severity}")
    chosen, side = KINDS[kind], min(image.shape[:2])
    table, usual = (chosen.small, 32) if side < MIN_LARGE_SIDE else (chosen.large, 224)
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    scene = Scene(image.astype(np.float64) / 255, side / usual, rng)
    result = chosen.function(scene, *table[severity - 1])
    return (np.clip(result, 0, 1) * 255).round().astype(np.uint8)


def gaussian_noise(scene: Scene, deviation: float) -> Array:
    """Noise of one strength everywhere, as in little light."""
    return scene.x + deviation * scene.rng.standard_normal(scene.x.shape)


def shot_noise(scene: Scene, photons: float) -> Array:
    """The noise of counting so many photons where the picture is white."""
    return scene.rng.poisson(scene.x * photons) / photons


def impulse_noise(scene: Scene, amount: float) -> Array:
    """Salt and pepper: this share of all values becomes 0 or 1."""
    chance = scene.rng.random(scene.x.shape)
    return np.where(chance < amount / 2, 0.0, np.where(chance < amount, 1.0, scene.x))


def defocus_blur(scene: Scene, radius: float, softness: float) -> Array:
    """Convolution with a disk whose rim is softened."""
    radius = radius * scene.pixel
    reach = int(np.ceil(radius)) + 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = ndimage.gaussian_filter((y**2 + x**2 <= radius**2).astype(np.float64), softness, radius=1, mode="constant")
    return _convolve(scene.x, disk / disk.sum())


def glass_blur(scene: Scene, deviation: float, reach: float, rounds: float) -> Array:
    """Frosted glass: neighbours swapped within reach, between two light blurs."""
    deviation, reach = deviation * scene.pixel, max(1, round(reach * scene.pixel))
    x = ndimage.gaussian_filter(scene.x, (deviation, deviation, 0))
    for _ in range(round(rounds)):
        _swap_neighbours(x, int(reach), scene.rng)
    return np.asarray(ndimage.gaussian_filter(x, (deviation, deviation, 0)))


def motion_blur(scene: Scene, radius: float, deviation: float) -> Array:
    """A camera that moves while it exposes, somewhere between 45 degrees up and down."""
    angle = scene.rng.uniform(-45, 45)
    return _smear(scene.x, radius * scene.pixel, deviation * scene.pixel, angle)


def zoom_blur(scene: Scene, most: float, step: float) -> Array:
    """The mean of the picture and of itself enlarged in steps."""
    height, width = scene.x.shape[:2]
    total = scene.x.copy()
    zooms = np.arange(1, most, step)
    for zoom in zooms:
        margin = 0.5 - 0.5 / zoom
        box = (margin * width, margin * height, (1 - margin) * width, (1 - margin) * height)
        total += np.stack([stretched(scene.x[..., c], (height, width), box) for c in range(3)], axis=-1)
    return np.asarray(total / (len(zooms) + 1))


def snow(
    scene: Scene, mean: float, deviation: float, zoom: float, least: float, radius: float, smear: float, keep: float
) -> Array:
    """Flakes that fall slantwise, over a picture that is paler and brighter."""
    height, width = scene.x.shape[:2]
    zoom = max(zoom * scene.pixel, 1)
    flakes = scene.rng.normal(mean, deviation, (height, width))
    flakes = stretched(flakes, (height, width), (0, 0, width / zoom, height / zoom))
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    angle = scene.rng.uniform(-135, -45)
    flakes = _smear(flakes, radius * scene.pixel, smear * scene.pixel, angle)
    pale = np.maximum(scene.x, (scene.x @ LUMINANCE)[..., None] * 1.5 + 0.5)
    return np.asarray(keep * scene.x + (1 - keep) * pale + (flakes + flakes[::-1, ::-1])[..., None])


def frost(scene: Scene, keep: float, strength: float) -> Array:
    """Ice crystals over the picture."""
    height, width = scene.x.shape[:2]
    return np.asarray(keep * scene.x + strength * frosting((height, width), scene.rng))


def fog(scene: Scene, strength: float, decay: float) -> Array:
    """A cloud over the picture, which keeps its brightest value."""
    height, width = scene.x.shape[:2]
    brightest = scene.x.max()
    clouded = scene.x + strength * plasma((height, width), decay, scene.rng)[..., None]
    return np.asarray(clouded * brightest / (brightest + strength))


def brightness(scene: Scene, more: float) -> Array:
    """More of the value of HSV; hue and saturation stay."""
    value = scene.x.max(axis=-1, keepdims=True)
    brighter = np.minimum(value + more, 1)
    return np.asarray(np.where(value > 0, scene.x * (brighter / np.maximum(value, 1e-9)), brighter))


def contrast(scene: Scene, share: float) -> Array:
    """Every channel shrunk towards its mean."""
    mean = scene.x.mean(axis=(0, 1), keepdims=True)
    return np.asarray(mean + share * (scene.x - mean))


def elastic_transform(scene: Scene, strength: float, smoothness: float, jolt: float) -> Array:
    """A small random affine map, and every pixel moved a little, neighbours alike."""
    height, width = scene.x.shape[:2]
    place = np.mgrid[0:height, 0:width].astype(np.float64)
    for axis in range(2):
        wind = scene.rng.uniform(-1, 1, (height, width))
        smooth = smoothness * scene.pixel
        place[axis] += strength * scene.pixel * ndimage.gaussian_filter(wind, smooth, truncate=3)
    place = _affine(place, (height, width), jolt * scene.pixel, scene.rng)
    channels = [ndimage.map_coordinates(scene.x[..., c], place, order=1, mode="mirror") for c in range(3)]
    return np.stack(channels, axis=-1)


def pixelate(scene: Scene, share: float) -> Array:
    """Fewer, larger pixels: this share of the width and of the height."""
    height, width = scene.x.shape[:2]
    few = (max(1, int(width * share)), max(1, int(height * share)))
    small = _picture(scene.x).resize(few, Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)) / 255


def jpeg_compression(scene: Scene, quality: float) -> Array:
    """Written as a JPEG file and read again."""
    file = io.BytesIO()
    _picture(scene.x).save(file, "JPEG", quality=round(quality))
    return np.asarray(Image.open(file)) / 255


def _each(*numbers: float) -> tuple[tuple[float, ...], ...]:
    """One number for each severity."""
    return tuple((number,) for number in numbers)


def _lengths(unit: float, *severities: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """Numbers that the paper gives as shares of a length."""
    return tuple(tuple(unit * number for number in numbers) for numbers in severities)


KINDS: dict[str, Kind] = {
    "gaussian_noise": Kind(gaussian_noise, _each(0.08, 0.12, 0.18, 0.26, 0.38), _each(0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": Kind(shot_noise, _each(60, 25, 12, 5, 3), _each(500, 250, 100, 75, 50)),
    "impulse_noise": Kind(impulse_noise, _each(0.03, 0.06, 0.09, 0.17, 0.27), _each(0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": Kind(
        defocus_blur,
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ),
    "glass_blur": Kind(
        glass_blur,
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    ),
    "motion_blur": Kind(
        motion_blur,
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ),
    "zoom_blur": Kind(
        zoom_blur,
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    ),
    "snow": Kind(
        snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": Kind(
        frost,
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    ),
    "fog": Kind(
        fog,
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ),
    "brightness": Kind(brightness, _each(0.1, 0.2, 0.3, 0.4, 0.5), _each(0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Kind(contrast, _each(0.4, 0.3, 0.2, 0.1, 0.05), _each(0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": Kind(
        elastic_transform,
        _lengths(244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
        _lengths(32, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": Kind(pixelate, _each(0.6, 0.5, 0.4, 0.3, 0.25), _each(0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": Kind(jpeg_compression, _each(25, 18, 15, 10, 7), _each(80, 65, 58, 50, 40)),
}


def _picture(x: Array) -> Image.Image:
    return Image.fromarray((x * 255).round().astype(np.uint8))


def _convolve(x: Array, kernel: Array) -> Array:
    return np.stack([ndimage.convolve(x[..., c], kernel, mode="mirror") for c in range(3)], axis=-1)


def _swap_neighbours(x: Array, reach: int, rng: np.random.Generator) -> None:
    """Swaps every pixel, in place, with one less than `reach` after or up to `reach` before it on both axes.

    Pixels 2 * reach apart cannot meet, so each of these lattices is swapped at once.
    """
    height, width = x.shape[:2]
    for first_y in range(2 * reach):
        for first_x in range(2 * reach):
            y, x_ = np.mgrid[first_y : height : 2 * reach, first_x : width : 2 * reach].reshape(2, -1)
            to_y, to_x = np.stack([y, x_]) + rng.integers(-reach, reach, (2, len(y)))
            inside = (to_y >= 0) & (to_y < height) & (to_x >= 0) & (to_x < width)
            here, there = (y[inside], x_[inside]), (to_y[inside], to_x[inside])
            x[here], x[there] = x[there], x[here]


def _smear(x: Array, radius: float, deviation: float, angle: float) -> Array:
    """The mean along a line from every pixel, weighted by one half of a Gaussian; angle in degrees."""
    steps = np.arange(2 * max(1, round(radius)) + 1)
    weights = np.exp(-0.5 * (steps / max(deviation, 1e-3)) ** 2)
    weights /= weights.sum()
    reach = len(steps)
    height, width = x.shape[:2]
    padded = np.pad(x, [(reach, reach), (reach, reach)] + [(0, 0)] * (x.ndim - 2), "edge")
    total = np.zeros_like(x)
    for step, weight in zip(steps, weights, strict=True):
        dy = reach + round(step * np.sin(np.radians(angle)))
        dx = reach + round(step * np.cos(np.radians(angle)))
        total += weight * padded[dy : dy + height, dx : dx + width]
    return total


def _affine(place: Array, size: tuple[int, int], jolt: float, rng: np.random.Generator) -> Array:
    """Places [2, H, W] under the affine map that brings three points, each moved by at most `jolt`, back."""
    centre, arm = np.array(size) // 2, min(size) // 3
    points = np.array([[1, 1], [1, -1], [-1, -1]]) * max(arm, 1) + centre
    moved = points + rng.uniform(-jolt, jolt, (3, 2))
    ones = np.ones((3, 1))
    matrix = np.linalg.solve(np.hstack([moved, ones]), points)
    return np.asarray(np.einsum("ik,ihw->khw", matrix[:2], place) + matrix[2][:, None, None])
