"""Preprocessing: what torchvision's own transforms do, bit for bit, and where the map belongs on the original."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.images import BadImage, preprocess, resized
from gradserve_server.config import LimitSettings

LIMITS = LimitSettings()
SIZES = [(75, 56), (224, 224), (256, 256), (257, 500), (500, 333), (640, 481), (1001, 200), (31, 600), (2, 3), (1, 1)]


def card(height: int = 224, width: int = 224, resize: int = 256, interpolation: str = "bilinear") -> Any:
    return SimpleNamespace(
        name="m",
        height=height,
        width=width,
        resize=resize,
        interpolation=interpolation,
        any_size=True,
        min_size=32,
    )


MODELS = [
    card(),
    card(resize=232),
    card(299, 299, 342),
    card(384, 384, 384, "bicubic"),
    card(8, 8, 8),
    card(64, 96, 96),
]


def photo(height: int, width: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "model",
    [card(), card(resize=232), card(299, 299, 342), card(384, 384, 384, "bicubic"), card(8, 8, 8), card(64, 96, 96)],
)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_model_default_is_torchvisions_resize_and_crop(model: Any, size: tuple[int, int]) -> None:
    pixels = photo(*size)
    ours, _ = preprocess(pixels, model, pb.PREPROCESS_MODEL_DEFAULT, LIMITS)
    how = InterpolationMode(model.interpolation)
    theirs = CenterCrop((model.height, model.width))(Resize(model.resize, how)(Image.fromarray(pixels)))
    assert ours.dtype == np.uint8
    assert ours.shape == (model.height, model.width, 3)
    assert (ours == np.asarray(theirs)).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_region_is_where_the_model_looked(size: tuple[int, int]) -> None:
    """A picture of its own coordinates: what the model sees at its edges lies where the region says."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    pixels = np.stack([x / width, y / height, np.zeros_like(x)], axis=2)
    model = card()
    seen, region = preprocess(pixels, model, pb.PREPROCESS_MODEL_DEFAULT, LIMITS)
    assert (region.image_width, region.image_height) == (width, height)
    assert 0 <= region.x <= region.x + region.width <= width + 1e-9
    assert 0 <= region.y <= region.y + region.height <= height + 1e-9
    middle = region.x + region.width / 2, region.y + region.height / 2
    got = seen[111:113, 111:113].mean((0, 1))
    assert got[0] * width == pytest.approx(middle[0], abs=max(0.6, 0.01 * width))
    assert got[1] * height == pytest.approx(middle[1], abs=max(0.6, 0.01 * height))
    if min(size) >= 75:
        left, top = seen[112, 0, 0] * width, seen[0, 112, 1] * height
        assert left == pytest.approx(region.x + region.width / 448, abs=1.5)
        assert top == pytest.approx(region.y + region.height / 448, abs=1.5)


def test_floats_are_resized_as_bytes_are_but_not_rounded() -> None:
    pixels = photo(300, 200)
    as_bytes, _ = preprocess(pixels, card(), pb.PREPROCESS_MODEL_DEFAULT, LIMITS)
    as_floats, _ = preprocess(pixels.astype(np.float32) / 255, card(), pb.PREPROCESS_MODEL_DEFAULT, LIMITS)
    assert as_floats.dtype == np.float32
    assert np.abs(as_floats * 255 - as_bytes).max() < 1.01
    assert len(np.unique(as_floats)) > 256


def test_the_whole_image_is_squeezed() -> None:
    pixels = photo(100, 300)
    seen, region = preprocess(pixels, card(), pb.PREPROCESS_WHOLE_IMAGE, LIMITS)
    assert (seen == np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR))).all()
    assert (region.x, region.y, region.width, region.height) == (0, 0, 300, 100)


def test_as_is_touches_nothing() -> None:
    pixels = photo(40, 77)
    seen, region = preprocess(pixels, card(), pb.PREPROCESS_AS_IS, LIMITS)
    assert seen is pixels
    assert (region.width, region.height) == (77, 40)
    with pytest.raises(BadImage, match="at least 32"):
        preprocess(photo(31, 77), card(), pb.PREPROCESS_AS_IS, LIMITS)


def test_an_elongated_picture_is_not_blown_up() -> None:
    with pytest.raises(BadImage, match="WHOLE_IMAGE"):
        preprocess(photo(1, 21), card(), pb.PREPROCESS_MODEL_DEFAULT, LIMITS)
    assert preprocess(photo(1, 20), card(), pb.PREPROCESS_MODEL_DEFAULT, LIMITS)[0].shape == (224, 224, 3)


def test_nothing_is_resampled_where_the_size_is_right() -> None:
    pixels = photo(5, 7)
    assert resized(pixels, 5, 7, "bilinear") is pixels
