"""What a model gets of a picture: its card and pixels in, pixels out. Files and messages are decoded elsewhere."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .card import ModelCard

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
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
    """Pixels of a picture's shorter side before the model's input is cut out of its middle."""
    return max(card.resize, card.height, card.width)


def center_crop(picture: Picture, size: tuple[int, int], card: ModelCard, max_aspect: float) -> tuple[np.ndarray, Crop]:
    """The picture resized to the card's `resize` and cropped to the model's input [h, w, 3], as torchvision does it.

    size: height and width of the original, in whose pixels the crop is returned; a JPEG file may be decoded smaller.
    Raises BadImage for a picture more elongated than max_aspect.
    """
    height, width = size
    check_aspect(height, width, max_aspect)
    shorter = shorter_side(card)
    longer = int(shorter * max(height, width) / min(height, width))  # As torchvision rounds it.
    tall, wide = (longer, shorter) if height >= width else (shorter, longer)
    top, left = round((tall - card.height) / 2), round((wide - card.width) / 2)
    part = resize(picture, tall, wide, card.interpolation)[top : top + card.height, left : left + card.width]
    down, across = height / tall, width / wide
    return np.ascontiguousarray(part), Crop(left * across, top * down, card.width * across, card.height * down)


def check_aspect(height: int, width: int, max_aspect: float) -> None:
    """Raises BadImage for sides that differ by more than that factor."""
    if max(height, width) > max_aspect * min(height, width):
        at_most = f"at most {max_aspect:g} to 1, or WHOLE_IMAGE, which takes any"
        raise BadImage(f"a {width}x{height} picture is too elongated: {at_most}")


def resize(picture: Picture, height: int, width: int, interpolation: str) -> np.ndarray:
    """Pillow's antialiased resampling to [height, width, 3]; float pictures channel by channel, never rounded."""
    if size_of(picture) == (height, width):
        return np.asarray(picture)
    filter_ = RESAMPLING[interpolation]
    if isinstance(picture, np.ndarray) and picture.dtype != np.uint8:
        channels = [np.asarray(Image.fromarray(picture[..., c]).resize((width, height), filter_)) for c in range(3)]
        return np.stack(channels, axis=2).clip(0, 1)
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    return np.asarray(image.resize((width, height), filter_))


def to_batch(pixels: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[n, h, w, 3], uint8 or float in [0, 1] -> [n, 3, h, w] in [0, 1], laid out in memory as it came."""
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
    return images.to(dtype).div_(255) if images.dtype == torch.uint8 else images.to(dtype)
