"""Masks of objects from files: white where the object is, black elsewhere. What could mean anything else is refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gradserve import decoding
from gradserve.datasets import Dataset, Example
from gradserve.images import Array
from gradserve.messages.inputs import UnusablePicture
from gradserve.results.common import Region

_FORM = "a mask is white where the object is and black elsewhere"


def mask_path(masks: Path, example: Example) -> Path:
    """Where the mask of a picture lies: at the picture's own path from there, as PNG."""
    return (masks / example.id).with_suffix(".png")


def check_there(dataset: Dataset, masks: Path) -> None:
    """Raises ValueError where a picture has no mask."""
    missing = [mask_path(masks, each) for each in dataset if not mask_path(masks, each).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(dataset)} pictures have no mask, the first of them {missing[0]}: a mask is a PNG "
            "at the picture's own path in the folder of masks, white where the object is"
        )


def read_mask(path: Path) -> Array:
    """The mask in a file, [H, W] bool. Raises UnusablePicture for one that is damaged or is no mask."""
    try:
        with Image.open(path) as picture:
            picture.load()
            mask = _white(picture)
    except UnusablePicture as error:
        raise UnusablePicture(f"{path}: {error}") from None
    except Exception as error:  # Pillow's decoders raise errors of any type for a damaged file.
        raise UnusablePicture(f"{path} cannot be read as a picture: {error}") from None
    if mask.all():
        raise UnusablePicture(f"{path} is white everywhere; {_FORM}")
    return mask


def _white(picture: Image.Image) -> Array:
    """Where a picture is white. Raises UnusablePicture where it is so nowhere, and for other colours than grey."""
    if decoding.has_sixteen_bits(picture):
        values, white = decoding.sixteen_bits(picture), 65535
    elif picture.mode in ("1", "L") and not picture.has_transparency_data:
        values, white = np.asarray(picture.convert("L")), 255
    elif picture.mode in ("L", "LA", "P", "PA", "RGB", "RGBA"):
        values, white = _black_and_white(picture), 255
    else:
        raise UnusablePicture(
            f"its Pillow mode is {picture.mode}; that of a mask must be 1, L, LA, I;16, P, PA, RGB or RGBA"
        )
    mask = np.asarray(values > white // 2)
    if not mask.any():
        raise UnusablePicture(f"it has no white pixel: its largest value is {values.max()}, and white {white}; {_FORM}")
    return mask


def _black_and_white(picture: Image.Image) -> Array:
    """A picture with a palette, colours or alpha that has no colours but black and white, [H, W] uint8."""
    pixels = np.asarray(picture.convert("RGBA"))
    if pixels[..., 3].min() < 255:
        raise UnusablePicture(f"it is transparent in places; {_FORM}, and opaque")
    grey: Array = pixels[..., 0]
    other = (pixels[..., :3] != grey[..., None]).any(-1) | ((grey != 0) & (grey != 255))
    if other.any():
        colour = tuple(pixels[..., :3][other][0].tolist())
        raise UnusablePicture(f"it has other colours than black and white, such as {colour}; {_FORM}")
    return grey


def seen(mask: Array, region: Region, size: Sequence[int]) -> Array:
    """The part of a mask of the whole picture that the model saw, in the size of its input; outside of it False."""
    y = np.floor(region.y + (np.arange(size[0]) + 0.5) * region.height / size[0]).astype(int)
    x = np.floor(region.x + (np.arange(size[1]) + 0.5) * region.width / size[1]).astype(int)
    rows, columns = (y >= 0) & (y < mask.shape[0]), (x >= 0) & (x < mask.shape[1])
    found: Array = mask[np.ix_(y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1))]
    return np.asarray(found & rows[:, None] & columns[None])
