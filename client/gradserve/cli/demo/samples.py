"""Real pictures to show: handwritten digits of scikit-learn, photos that scikit-image and scikit-learn bring along."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gradserve import images
from gradserve.messages import inputs

_CATS = ("tiger cat", "tabby", "tabby cat", "Egyptian cat", "cat")
# Package, file, what is to be seen, and the names that classes for it have.
_PHOTOS: Mapping[str, tuple[str, str, str, tuple[str, ...]]] = {
    "cat": ("skimage", "data/chelsea.png", "a cat", _CATS),
    "coffee": ("skimage", "data/coffee.png", "a cup of coffee", ("espresso", "cup", "coffee mug")),
    "rocket": ("skimage", "data/rocket.jpg", "a rocket", ("missile", "projectile", "rocket")),
    "astronaut": ("skimage", "data/astronaut.png", "an astronaut", ("astronaut",)),
    "flower": ("sklearn", "datasets/images/flower.jpg", "a dahlia", ("dahlia",)),
    "temple": ("sklearn", "datasets/images/china.jpg", "a palace", ("palace",)),
}
_STACKED_SIDE = 448  # Pixels of a picture of two photos.
_DIGITS = {3: "three", 8: "eight"}


@dataclass(frozen=True)
class SamplePicture:
    """A picture's name and file, what is to be seen on it, and the names that classes for it have."""

    name: str
    data: bytes
    content: str = ""
    classes: Collection[str] = ()

    def open(self) -> Image.Image:
        """The picture as the server sees it."""
        return images.opened(inputs.message(self.data))


def photos(*names: str) -> list[SamplePicture]:
    """The photos of these names, without those whose package is not installed."""
    existing = []
    for name in names:
        package, place, content, classes = _PHOTOS[name]
        spec = find_spec(package)  # This finds the folder and imports nothing.
        path = Path(spec.origin).parent / place if spec and spec.origin else None
        if path and path.exists():
            existing.append(SamplePicture(name, path.read_bytes(), content, classes))
    return existing


def stacked(upper: SamplePicture, lower: SamplePicture) -> SamplePicture:
    """A square picture of two photos, one above the other; of each the middle, twice as wide as high."""
    square = Image.new("RGB", (_STACKED_SIDE, _STACKED_SIDE))
    half = (_STACKED_SIDE, _STACKED_SIDE // 2)
    for place, picture in ((0, upper), (half[1], lower)):
        square.paste(ImageOps.fit(picture.open(), half, Image.Resampling.LANCZOS), (0, place))
    name, content = f"{upper.name} and {lower.name}", f"{upper.content} and {lower.content}"
    return SamplePicture(name, images.png(square), content, (*upper.classes, *lower.classes))


def digits() -> list[SamplePicture]:
    """Handwritten digits, 8 x 8; none where scikit-learn is not installed."""
    if not find_spec("sklearn"):
        return []
    from sklearn.datasets import load_digits  # The server needs it, the client alone does not.

    loaded = load_digits()
    pixels = (loaded.images * (255 / 16)).round().astype(np.uint8)
    chosen = {digit: pixels[np.flatnonzero(loaded.target == digit)[-1]] for digit in _DIGITS}
    return [
        SamplePicture(f"the digit {digit}", images.png(Image.fromarray(chosen[digit])), f"a {name}", (name,))
        for digit, name in _DIGITS.items()
    ]
