"""The size of a model's input, how pictures are brought to it, and what their pixels are normalised by."""

from typing import Any, NamedTuple

from .card import Framing, Interpolation
from .catalogue import Colour, ModelSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.0,), (1.0,)  # Defaults for networks that take one channel.
USUAL_SIDE = 224  # Sides of an input in pixels where nothing says otherwise.


class SizeFault(ValueError):
    """Sizes of an entry that do not go together; the text says which."""


class Geometry(NamedTuple):
    """The size of a network's input, and how a picture is brought to it."""

    height: int
    width: int
    resize: Framing
    interpolation: Interpolation


class Colours(NamedTuple):
    """What pixels in [0, 1] are normalised by: a number for each channel of the network."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Preset(NamedTuple):
    """What a network's library or its weights say of its input and its classes."""

    geometry: Geometry | None = None
    colours: Colours | None = None
    labels: tuple[str, ...] = ()


def torchvision_preset(weights: Any) -> Preset:
    """What the metadata of torchvision's weights say."""
    given = weights.transforms()
    crop = (getattr(given, "crop_size", None) or given.resize_size)[0]  # Segmentation resizes and does not crop.
    side = max(given.resize_size[0], crop)
    geometry = Geometry(crop, crop, Framing(side, side), given.interpolation.value)
    return Preset(geometry, Colours(tuple(given.mean), tuple(given.std)), tuple(weights.meta["categories"]))


def geometry_of(spec: ModelSpec, usual: Geometry | None) -> Geometry:
    """The input's size and how pictures are brought to it: the entry's, that of published weights, or the common one.

    Raises SizeFault.
    """
    own = usual or Geometry(USUAL_SIDE, USUAL_SIDE, Framing(USUAL_SIDE, USUAL_SIDE), "bilinear")
    height, width = spec.height or own.height, spec.width or own.width
    framing = own.resize if (height, width) == (own.height, own.width) else Framing(height, width)
    if isinstance(spec.resize, int):
        side = max(spec.resize, height, width)
        framing = Framing(side, side)
    elif spec.resize is not None:
        framing = Framing(*spec.resize, stretched=True)
    if framing[:3] == own.resize[:3]:
        framing = own.resize  # What repeats the usual size keeps the usual way of rounding, too.
    if framing.height < height or framing.width < width:
        size = f"[{framing.height}, {framing.width}]"
        raise SizeFault(f"resize is {size}, and must be at least height and width, {height}x{width}")
    return Geometry(height, width, framing, spec.interpolation or own.interpolation)


def normalisation(spec: ModelSpec, usual: Colours | None) -> tuple[Colour, Colour]:
    """Mean and standard deviation: the entry's, those of published weights, or the common ones."""
    common = (GREY_MEAN, GREY_STD) if spec.channels == 1 else (IMAGENET_MEAN, IMAGENET_STD)
    mean, std = usual or common
    return spec.mean or mean, spec.std or std


def with_transform(mean: Colour, std: Colour) -> tuple[Colour, Colour]:
    """Mean and std with GoogLeNet's own transform: x * s / 0.5 + (m - 0.5) / 0.5, where m and s are ImageNet's."""
    scaled = [b * 0.5 / s for b, s in zip(std, IMAGENET_STD, strict=True)]
    moved = [a - c * (m - 0.5) / 0.5 for a, c, m in zip(mean, scaled, IMAGENET_MEAN, strict=True)]
    return tuple(moved), tuple(scaled)
