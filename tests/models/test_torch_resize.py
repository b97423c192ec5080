"""Pictures of 8 bits resized as torchvision resizes them, to the bit."""

import tracemalloc

import numpy as np
import pytest
import torch
from hub_pictures import eight_bit_resizing  # noqa: F401  a fixture
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode, functional

from gradserve_server.models.preprocess import resize
from gradserve_server.models.torch_resize import FILTERS, torch_resize

SIZES = [(375, 500, 256, 341), (900, 700, 224, 224), (50, 40, 224, 224), (90, 64, 64, 64), (1, 7, 5, 5), (99, 9, 3, 40)]
SIZES += [(64, 90, 64, 64), (300, 1, 8, 8)]


pytestmark = pytest.mark.usefixtures("eight_bit_resizing")


def pictures(height: int, width: int) -> list[np.ndarray]:
    """Noise, whose sums are least alike, and black and white stripes, which go beyond the range under some filters."""
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    stripes = np.zeros_like(noise)
    stripes[:, ::2] = 255
    return [noise, stripes]


@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize("sizes", SIZES)
def test_equals_torchvision_to_the_bit(sizes: tuple[int, int, int, int], filter_: str) -> None:
    old, new, mode = sizes[:2], list(sizes[2:]), InterpolationMode(filter_.removeprefix("torch_"))
    for picture in pictures(*old):
        theirs = functional.resize(torch.from_numpy(picture).permute(2, 0, 1), new, mode, antialias=True)
        assert np.array_equal(torch_resize(Image.fromarray(picture), *new, filter_), theirs.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("filter_", FILTERS)
def test_float_pictures_are_not_rounded(filter_: str) -> None:
    noise = np.random.default_rng(0).random((60, 70, 3), np.float32)
    mode = InterpolationMode(filter_.removeprefix("torch_"))
    theirs = functional.resize(torch.from_numpy(noise).permute(2, 0, 1), [32, 40], mode, antialias=True).clamp(0, 1)
    ours = resize(noise, 32, 40, filter_)
    assert np.abs(ours - theirs.permute(1, 2, 0).numpy()).max() < 1e-5


def test_a_large_picture_is_not_copied_whole() -> None:
    picture = Image.new("RGB", (4000, 3000))
    tracemalloc.start()
    try:
        resize(picture, 64, 64, "torch_bilinear")
        assert tracemalloc.get_traced_memory()[1] < 3 * 4000 * 3000 / 2
    finally:
        tracemalloc.stop()
