"""The picture or the empty canvas that an image is made on: its size, checked against the model's card."""

from typing import Any

import numpy as np

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import progress_pb2

from ...models.card import ModelCard
from ...models.preprocess import BadImage, resize
from ..errors import Violations
from ..pictures import images
from ..request import CallContext

CANVAS_VALUE = 0.5


def picture(image: pb.Image, path: str, at: CallContext, violations: Violations) -> np.ndarray[Any, Any] | None:
    """A decoded picture [H, W, 3], or None with a violation; an empty one where pictures are not decoded."""
    if not at.decode:
        size = images.header_size(image)
        if size is not None and 0 < size[0] * size[1] <= at.limits.max_image_pixels:
            return empty(*size)
        violations.add(path, "tells its size only when it is decoded", for_every_model=True)
        return None
    try:
        return images.decode(image, at.limits).pixels
    except BadImage as error:
        violations.add(path, str(error), for_every_model=True)
        return None


def canvas(
    photo: np.ndarray[Any, Any] | None,
    size: progress_pb2.Size,
    longest: int,
    card: ModelCard,
    at: CallContext,
    violations: Violations,
) -> np.ndarray[Any, Any]:
    """The photo resized, or a grey canvas, [H, W, 3].

    Where no size is asked for, that of the photo or else of the model, its longer side cut down to `longest`.
    """
    natural = (card.height, card.width) if photo is None else (photo.shape[0], photo.shape[1])
    natural = scaled(natural, min(1.0, longest / max(natural)))
    height, width = sides(size, natural, violations)
    if not card.any_size:
        if size.ByteSize() and (height, width) != (card.height, card.width):
            only = f"{card.width}x{card.height}"
            violations.add("size", f"must be {only}, the only one that {card.name} accepts, was {width}x{height}")
        height, width = card.height, card.width
    if not images.fits(height, width, card, at.limits):
        violations.add("size", f"{card.name} takes {images.sizes_taken(card, at.limits)}, was {width}x{height}")
        height, width = card.height, card.width
    if photo is None and at.decode:
        return np.full((height, width, 3), CANVAS_VALUE, np.float32)
    return empty(height, width) if photo is None else sized(photo, height, width, card, at)


def sized(photo: np.ndarray[Any, Any], height: int, width: int, card: ModelCard, at: CallContext) -> np.ndarray:
    """The photo resized to [height, width, 3]; an empty picture of that size where pictures are not decoded."""
    return resize(photo, height, width, card.interpolation) if at.decode else empty(height, width)


def empty(height: int, width: int) -> np.ndarray[Any, Any]:
    """A picture [height, width, 3] that takes no memory."""
    return np.broadcast_to(np.uint8(0), (height, width, 3))


def sides(size: progress_pb2.Size, natural: tuple[int, int], violations: Violations) -> tuple[int, int]:
    """Height and width of a picture of that natural height and width in the size that is asked for."""
    height, width = natural
    if size.longer:
        if size.width or size.height:
            violations.add("size", "longer and width or height exclude each other", for_every_model=True)
        return scaled(natural, size.longer / max(natural))
    if size.width and size.height:
        return size.height, size.width
    if size.width:
        return scaled(natural, size.width / width)
    if size.height:
        return scaled(natural, size.height / height)
    return natural


def scaled(sides: tuple[int, int], factor: float) -> tuple[int, int]:
    """Both sides times a factor, at least one pixel each."""
    return max(1, round(sides[0] * factor)), max(1, round(sides[1] * factor))
