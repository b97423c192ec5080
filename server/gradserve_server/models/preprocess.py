"""What a model gets of a picture: its card and pixels in, pixels out. Files and messages are decoded elsewhere."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .card import Framing, Interpolation, ModelCard
from .torch_resize import FILTERS, torch_resize

RESAMPLING: dict[Interpolation, Image.Resampling] = {  # Those of torch are for pictures of floats.
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "torch_bilinear": Image.Resampling.BILINEAR,
    "torch_bicubic": Image.Resampling.BICUBIC,
    "torch_lanczos": Image.Resampling.LANCZOS,
}
Picture = Image.Image | np.ndarray  # In RGB; an array is [h, w, 3], uint8 or float32 in [0, 1].


class BadImage(Exception):
    """The picture cannot be used; the text says why and what is allowed."""


class Crop(NamedTuple):
    """The part of a picture that the model sees, in the picture's own pixels; its edges may lie within pixels."""

    x: float
    y: float
    width: float
    height: float


def size_of(picture: Picture) -> tuple[int, int]:
    """Height and width."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return picture.shape[0], picture.shape[1]


def shorter_side(card: ModelCard) -> int:
    """Pixels that a picture's shorter side must have, so that its resizing is never an enlargement."""
    return max(card.resize.height, card.resize.width)


def resized_size(height: int, width: int, framing: Framing) -> tuple[int, int]:
    """Height and width that a picture of this size is resized to, rounded as torchvision's Resize and timm do it."""
    if framing.stretched:
        return framing.height, framing.width
    if framing.height == framing.width:
        longer = int(framing.height * max(height, width) / min(height, width))
        return (longer, framing.width) if height >= width else (framing.height, longer)
    ratio = min(height / framing.height, width / framing.width)
    return round(height / ratio), round(width / ratio)


class Placed(NamedTuple):
    """A model's input [h, w, 3], the whole resized picture's height and width, and where in it the input begins."""

    pixels: np.ndarray
    tall: int
    wide: int
    top: int
    left: int


def place(
    picture: Picture, original: tuple[int, int], own: tuple[int, int], framing: Framing, interpolation: Interpolation
) -> Placed:
    """The picture resized as the framing says, and the input's `own` height and width cut out of its middle.

    original: height and width by which the new size is found; a JPEG file may be decoded smaller.
    """
    tall, wide = resized_size(*original, framing)
    spare = tall - own[0], wide - own[1]
    top, left = (pixels // 2 if framing.floored else round(pixels / 2) for pixels in spare)
    part = resize(picture, tall, wide, interpolation)[top : top + own[0], left : left + own[1]]
    return Placed(np.ascontiguousarray(part), tall, wide, top, left)


def center_crop(picture: Picture, size: tuple[int, int], card: ModelCard, max_aspect: float) -> tuple[np.ndarray, Crop]:
    """The picture resized as the card's `resize` says, and cropped to the model's input [h, w, 3].

    size: height and width of the original, in whose pixels the crop is returned; a JPEG file may be decoded smaller.
    Raises BadImage for a picture more elongated than max_aspect, if it keeps its aspect ratio.
    """
    height, width = size
    if not card.resize.stretched:
        check_aspect(height, width, max_aspect)
    pixels, tall, wide, top, left = place(picture, size, (card.height, card.width), card.resize, card.interpolation)
    down, across = height / tall, width / wide
    return pixels, Crop(left * across, top * down, card.width * across, card.height * down)


def check_aspect(height: int, width: int, max_aspect: float) -> None:
    """Raises BadImage for sides that differ by more than that factor."""
    if max(height, width) > max_aspect * min(height, width):
        at_most = f"at most {max_aspect:g} to 1, or WHOLE_IMAGE, which takes any"
        raise BadImage(f"a {width}x{height} picture is too elongated: {at_most}")


def resize(picture: Picture, height: int, width: int, interpolation: Interpolation) -> np.ndarray:
    """Antialiased resampling to [height, width, 3], Pillow's or torch's; float pictures are never rounded."""
    if size_of(picture) == (height, width):
        return np.asarray(picture)
    filter_ = RESAMPLING[interpolation]
    if isinstance(picture, np.ndarray) and picture.dtype != np.uint8:
        channels = [np.asarray(Image.fromarray(picture[..., c]).resize((width, height), filter_)) for c in range(3)]
        return np.stack(channels, axis=2).clip(0, 1)
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    if interpolation in FILTERS:
        return torch_resize(image, height, width, interpolation)
    return np.asarray(image.resize((width, height), filter_))


def to_batch(pixels: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[n, h, w, 3], uint8 or float in [0, 1] -> [n, 3, h, w] in [0, 1], laid out in memory as it came."""
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
    return images.to(dtype).div_(255) if images.dtype == torch.uint8 else images.to(dtype)
