"""Pictures of concepts made by code: stripes, dots, chequers, blobs as negatives, and tints of other pictures.

Each is uint8 in RGB, has random colours, widths, angles, shading and a little noise, and comes from its seed alone.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from PIL import Image

Colours = tuple[np.ndarray, np.ndarray]  # Two colours [3] in [0, 1].
SIDE = 224
PALETTES = ("random", "black_white")
ORIENTATIONS: Mapping[str, float | None] = {"any": None, "horizontal": 90.0, "vertical": 0.0, "diagonal": 45.0}
TINTS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.9, 0.1, 0.1),
    "orange": (1.0, 0.5, 0.05),
    "yellow": (0.95, 0.9, 0.1),
    "green": (0.1, 0.7, 0.15),
    "blue": (0.1, 0.2, 0.9),
    "purple": (0.55, 0.1, 0.75),
    "pink": (1.0, 0.45, 0.7),
    "brown": (0.45, 0.28, 0.12),
}
MIN_CONTRAST = 0.5  # The least distance of two random colours.
WIDTHS = (6.0, 14.0)  # Pixels of a stripe or of a square, in a picture of 224 pixels.
SHADE, NOISE = 0.4, 0.04  # How much brightness changes over a picture, and from pixel to pixel.
ANGLE_JITTER = 6.0  # Degrees by which a named orientation is left.
TINT_SHARE = 0.65  # How much of a tinted picture is the tint's colour.


def stripes(
    count: int = 40, seed: int = 0, *, colours: str = "random", orientation: str = "any", side: int = SIDE
) -> list[Image.Image]:
    """Stripes that are a little warped; `orientation` names the direction in which they run."""
    return _drawn(_stripes, count, seed, colours, orientation, side)


def dots(
    count: int = 40, seed: int = 0, *, colours: str = "random", orientation: str = "any", side: int = SIDE
) -> list[Image.Image]:
    """Round dots on a grid."""
    return _drawn(_dots, count, seed, colours, orientation, side)


def chequers(
    count: int = 40, seed: int = 0, *, colours: str = "random", orientation: str = "any", side: int = SIDE
) -> list[Image.Image]:
    """A chequerboard."""
    return _drawn(_chequers, count, seed, colours, orientation, side)


def blobs(
    count: int = 40, seed: int = 0, *, colours: str = "random", orientation: str = "any", side: int = SIDE
) -> list[Image.Image]:
    """Smooth shapes of two colours without a pattern: negatives that differ in their structure alone."""
    return _drawn(_blobs, count, seed, colours, orientation, side)


def tinted(pictures: Iterable[Image.Image], colour: str) -> list[Image.Image]:
    """The pictures in shades of a colour of TINTS."""
    if colour not in TINTS:
        raise ValueError(f"a tint is one of {', '.join(TINTS)}, not {colour!r}")
    tint = np.array(TINTS[colour])
    tinted = []
    for picture in pictures:
        pixels = np.asarray(picture.convert("RGB")) / 255
        grey = pixels.mean(2, keepdims=True)
        shaded = np.where(grey < 0.5, 2 * grey * tint, tint + (2 * grey - 1) * (1 - tint))
        tinted.append(_image(TINT_SHARE * shaded + (1 - TINT_SHARE) * pixels))
    return tinted


def _drawn(
    pattern: Callable[..., np.ndarray], count: int, seed: int, colours: str, orientation: str, side: int
) -> list[Image.Image]:
    if colours not in PALETTES:
        raise ValueError(f"colours is one of {', '.join(PALETTES)}, not {colours!r}")
    if orientation not in ORIENTATIONS:
        raise ValueError(f"orientation is one of {', '.join(ORIENTATIONS)}, not {orientation!r}")
    pictures = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        angle = ORIENTATIONS[orientation]
        angle = rng.uniform(0, 180) if angle is None else angle + rng.uniform(-ANGLE_JITTER, ANGLE_JITTER)
        share = pattern(rng, np.deg2rad(angle), side)
        first, second = _two_colours(rng, colours)
        pixels = first + share[..., None] * (second - first)
        shade = 1 + SHADE * _smooth(rng, side, 3)
        pictures.append(_image(pixels * shade[..., None] + rng.normal(0, NOISE, pixels.shape)))
    return pictures


def _stripes(rng: np.random.Generator, angle: float, side: int) -> np.ndarray:
    across, _, width = _axes(rng, angle, side)
    return _edge(np.sin(np.pi * across / width) + rng.uniform(-0.4, 0.4), width)  # Some have wide dark stripes.


def _dots(rng: np.random.Generator, angle: float, side: int) -> np.ndarray:
    across, along, width = _axes(rng, angle, side)
    spacing = 2 * width
    distance = np.hypot((across + width) % spacing - width, (along + width) % spacing - width)
    radius = width * rng.uniform(0.4, 0.7)
    return np.clip(radius - distance + 0.5, 0, 1)


def _chequers(rng: np.random.Generator, angle: float, side: int) -> np.ndarray:
    across, along, width = _axes(rng, angle, side)
    return _edge(np.sin(np.pi * across / width) * np.sin(np.pi * along / width), width)


def _blobs(rng: np.random.Generator, angle: float, side: int) -> np.ndarray:
    return _edge(_smooth(rng, side, int(rng.integers(3, 7))), side / 8)


def _axes(rng: np.random.Generator, angle: float, side: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Warped coordinates across and along the pattern, in pixels, and its width."""
    y, x = np.mgrid[0:side, 0:side].astype(float)
    width = rng.uniform(*WIDTHS) * side / SIDE
    warp = 1.5 * width * _smooth(rng, side, 4)
    across = x * np.cos(angle) + y * np.sin(angle) + warp + rng.uniform(0, 2 * width)
    return across, y * np.cos(angle) - x * np.sin(angle) + rng.uniform(0, 2 * width), width


def _edge(wave: np.ndarray, width: float) -> np.ndarray:
    """The wave in [-1, 1] as two levels 0 and 1 with edges of one or two pixels."""
    return np.clip(0.5 + wave * width / (1.5 * np.pi), 0, 1)


def _smooth(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """A smooth random surface [side, side], of values mostly within [-1, 1]."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float64)


def _two_colours(rng: np.random.Generator, palette: str) -> Colours:
    if palette == "black_white":
        dark, bright = rng.uniform(0, 0.15), rng.uniform(0.85, 1)
        return np.full(3, dark), np.full(3, bright)
    while True:
        first, second = rng.uniform(0, 1, (2, 3))
        if np.linalg.norm(first - second) >= MIN_CONTRAST:
            return first, second


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8))


Pattern = Callable[..., list[Image.Image]]
PATTERNS: Mapping[str, Pattern] = {"stripes": stripes, "dots": dots, "chequers": chequers}
