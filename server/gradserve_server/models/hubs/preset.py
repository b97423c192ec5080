"""What a library does to a picture before its network, in the server's terms, and the proof that they say the same."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..inputs import Colours, Geometry, Preset
from ..preprocess import place
from ..torch_resize import torch_resize

# Height and width of test pictures: odd differences, long ones as limits of a side tell, and one to enlarge.
TRIAL_SIZES = ((301, 200), (230, 411), (333, 334), (120, 700), (700, 120), (40, 31))
TOLERANCE = 2e-6  # Largest difference of a pixel in [0, 1], from rounding float32 in another order.

ONE_LEVEL = 1.01 / 255  # The same where the library rounds 8 bits otherwise on this processor than on most.

Transform = Callable[[Image.Image], Any]  # A picture to the network's input [C, h, w], as the library does it.


class HubFault(ValueError):
    """A network of a hub that cannot be served; the text says why, and what to write."""


class HubNetwork(NamedTuple):
    """A network of a hub with its weights, what its library says of it, and notes for its card."""

    network: nn.Module
    preset: Preset
    notes: tuple[str, ...] = ()


def trial_picture(height: int, width: int, channels: int = 3) -> Image.Image:
    """A picture of smooth and of sharp parts, in which no two channels and no two sides are alike."""
    random = np.random.default_rng(height * 10_000 + width)
    noise = random.integers(0, 256, (height, width, 3), np.uint8)
    noise[: height // 2] = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
    noise[:, : width // 3, 0] //= 3
    noise[height // 4 :, :, 2] //= 2
    picture = Image.fromarray(noise)
    return picture if channels == 3 else picture.convert("L")


def measured_colours(transform: Transform, channels: int) -> Colours:
    """The mean and std of a transform, by what it makes of black and of white. Raises HubFault."""
    pictures = [Image.new("L", (300, 300), level) for level in (0, 255)]
    pictures = pictures if channels == 1 else [picture.convert("RGB") for picture in pictures]
    black, white = (_channels(transform(picture)).flatten(1) for picture in pictures)
    scale = (white - black)[:, 0]
    if not ((black == black[:, :1]).all() and (white == white[:, :1]).all() and (scale > 0).all()):
        raise HubFault("its preprocessing pads pictures, or is no brightness times a factor")
    std = 1 / scale
    return Colours(tuple((-black[:, 0] * std).tolist()), tuple(std.tolist()))


def proven(
    transform: Transform, candidates: Iterable[Geometry], colours: Colours, tolerance: float = TOLERANCE
) -> Geometry | None:
    """The first of the candidates that gives what the transform gives, for pictures of several sizes; or None."""
    pictures = [trial_picture(*size, len(colours.mean)) for size in TRIAL_SIZES]
    theirs = [_channels(transform(picture)) for picture in pictures]
    return next((each for each in candidates if _agrees(each, colours, pictures, theirs, tolerance)), None)


def resizes_as_usual(interpolation: str) -> bool:
    """Whether torchvision resizes 8-bit tensors here as on most processors; without AVX2 it computes in floats."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    picture, size = trial_picture(*TRIAL_SIZES[0]), (64, 64)
    way = InterpolationMode(interpolation.removeprefix("torch_"))
    theirs = functional.resize(torch.tensor(np.asarray(picture)).permute(2, 0, 1), list(size), way, antialias=True)
    return np.array_equal(theirs.permute(1, 2, 0).numpy(), torch_resize(picture, *size, interpolation))


def _agrees(
    geometry: Geometry,
    colours: Colours,
    pictures: list[Image.Image],
    theirs: list[torch.Tensor],
    tolerance: float,
) -> bool:
    mean, std = (torch.tensor(numbers, dtype=torch.float64).view(-1, 1, 1) for numbers in colours)
    for picture, wanted in zip(pictures, theirs, strict=True):
        if wanted.shape != (len(mean), geometry.height, geometry.width):
            return False
        size = (picture.height, picture.width)
        pixels = place(picture.convert("RGB"), size, geometry[:2], geometry.resize, geometry.interpolation).pixels
        ours = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[: len(mean)].double() / 255
        if ours.shape[1:] != wanted.shape[1:] or not ((wanted * std + mean - ours).abs() <= tolerance).all():
            return False
    return True


def _channels(output: Any) -> torch.Tensor:
    """What a transform gives, as [C, h, w] in float64. Raises HubFault."""
    if not (isinstance(output, torch.Tensor) and output.dim() == 3):
        shape = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise HubFault(f"its preprocessing makes {shape} of a picture, not [channels, height, width]")
    return output.double()
