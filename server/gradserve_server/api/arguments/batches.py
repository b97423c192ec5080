"""Several pictures of a request, which become one batch."""

from collections.abc import Mapping, Sequence

import numpy as np

from gradserve.v1 import common_pb2 as pb

from ...models.card import ModelCard
from ..errors import Violations
from ..pictures.images import ModelInput
from ..request import CallContext, read_picture


def read_pictures(
    images: Sequence[pb.Image],
    path: str,
    most: int,
    how: pb.Preprocess,
    card: ModelCard,
    at: CallContext,
    violations: Violations,
    *,
    quick: bool,
    least: int = 1,
) -> list[ModelInput]:
    """The pictures of the field `path` as the model gets them; at least one, black where none can be used.

    Where they are not decoded, the first tells the size of all.
    """
    if not least <= len(images) <= most:
        violations.add(path, f"must be {least} to {most}, were {len(images)}", for_every_model=True)
        return [ModelInput(np.zeros((card.height, card.width, 3), np.uint8), pb.Region(), preprocess=how)]
    if not at.decode:
        return [read_picture(images[0], how, card, at, violations)] * len(images)
    pictures = [
        read_picture(image, how, card, at, violations, f"{path}[{i}]", quick=quick) for i, image in enumerate(images)
    ]
    return [picture._replace(preprocess=how) for picture in pictures]


def batch_of(pictures: Sequence[ModelInput], path: str, violations: Violations) -> np.ndarray:
    """The pictures of a field as one array [n, H, W, 3]; see `batch_of_fields`."""
    return batch_of_fields({path: pictures}, violations)


def batch_of_fields(fields: Mapping[str, Sequence[ModelInput]], violations: Violations) -> np.ndarray:
    """The pictures of some fields as one array, float32 if one of them is; the first alone where sizes differ."""
    named = {f"{path}[{i}]": picture for path, own in fields.items() for i, picture in enumerate(own)}
    pictures = list(named.values())
    first, origin = pictures[0].pixels, next(iter(named))
    for name, picture in named.items():
        if picture.pixels.shape != first.shape:
            (height, width), (other, wide) = first.shape[:2], picture.pixels.shape[:2]
            text = f"is {wide}x{other} where {origin} is {width}x{height}; send pictures of one size, or "
            violations.add(name, f"{text}preprocess MODEL_DEFAULT or WHOLE_IMAGE", for_every_model=True)
            return first[None]
    if len(pictures) == 1 or not any(first.strides):  # Strides of 0 are those of a picture that was not decoded.
        return np.broadcast_to(first, (len(pictures), *first.shape))
    if any(each.pixels.dtype != np.uint8 for each in pictures):
        scaled = [each.pixels / np.float32(255) if each.pixels.dtype == np.uint8 else each.pixels for each in pictures]
        return np.stack(scaled)
    return np.stack([each.pixels for each in pictures])
