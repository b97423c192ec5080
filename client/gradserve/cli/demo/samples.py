"""Real pictures to show: handwritten digits of scikit-learn, photos that scikit-image and scikit-learn bring along."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from gradserve import images
from gradserve.results.models import ModelCard

_PHOTOS = {
    "cat": ("skimage", "data/chelsea.png"),
    "astronaut": ("skimage", "data/astronaut.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
}
_STYLES = {"stained tissue": ("skimage", "data/ihc.png")}
_DIGITS = (3, 5, 8, 9)


@dataclass(frozen=True)
class SamplePicture:
    """A picture's name and file."""

    name: str
    data: bytes

    def open(self) -> Image.Image:
        """The picture as the server sees it."""
        return images.opened(images.message(self.data))


def pictures(card: ModelCard, count: int) -> list[SamplePicture]:
    """Pictures that suit a model; none where the package that brings them is not installed."""
    return _digits(count) if card.name == "digits" else _photos(count)


def styles() -> list[SamplePicture]:
    """Pictures whose style can be taken."""
    return _installed(_STYLES)


def _photos(count: int) -> list[SamplePicture]:
    return _installed(_PHOTOS)[:count]


def _installed(places: Mapping[str, tuple[str, str]]) -> list[SamplePicture]:
    existing = []
    for name, (package, place) in places.items():
        spec = find_spec(package)  # This finds the folder and imports nothing.
        path = Path(spec.origin).parent / place if spec and spec.origin else None
        if path and path.exists():
            existing.append(SamplePicture(name, path.read_bytes()))
    return existing


def _digits(count: int) -> list[SamplePicture]:
    if not find_spec("sklearn"):
        return []
    from sklearn.datasets import load_digits  # scikit-learn comes with the server.

    digits = load_digits()
    chosen = [int(np.flatnonzero(digits.target == digit)[-1]) for digit in _DIGITS[:count]]
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
    return [SamplePicture(f"a {digits.target[place]}", images.png(Image.fromarray(pixels[place]))) for place in chosen]
