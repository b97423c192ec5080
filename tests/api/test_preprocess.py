"""Preprocessing: what torchvision's own transforms do, bit for bit, and where the map belongs on the original."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.pictures.images import BadImage, DecodedPicture, decode, png, preprocess
from gradserve_server.config import LimitSettings
from gradserve_server.models.card import Framing
from gradserve_server.models.preprocess import resize

LIMITS = LimitSettings()
SIZES = [(75, 56), (224, 224), (256, 256), (257, 500), (500, 333), (640, 481), (1001, 200), (31, 600), (2, 3), (1, 1)]


def card(height: int = 224, width: int = 224, resize: int = 256, interpolation: str = "bilinear") -> Any:
    return SimpleNamespace(
        name="m",
        height=height,
        width=width,
        resize=Framing(resize, resize),
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


def whole(pixels: np.ndarray[Any, Any]) -> DecodedPicture:
    return DecodedPicture(pixels, *pixels.shape[:2])


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.resize.height} {model.interpolation}")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_model_default_is_torchvisions_resize_and_crop(model: Any, size: tuple[int, int]) -> None:
    pixels = photo(*size)
    ours, _ = preprocess(whole(pixels), model, pb.PREPROCESS_MODEL_DEFAULT, LIMITS)
    how = InterpolationMode(model.interpolation)
    theirs = CenterCrop((model.height, model.width))(Resize(model.resize.height, how)(Image.fromarray(pixels)))
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
    seen, region = preprocess(whole(pixels), model, pb.PREPROCESS_MODEL_DEFAULT, LIMITS)
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


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.resize.height} {model.interpolation}")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_floats_are_resized_as_torchvision_resizes_tensors_and_clamped(model: Any, size: tuple[int, int]) -> None:
    """In float64, since torch reckons where to sample in the tensor's own type and is off by 1e-5 in float32."""
    pixels = np.random.default_rng(1).random((*size, 3), np.float32)
    ours, _ = preprocess(whole(pixels), model, pb.PREPROCESS_MODEL_DEFAULT, LIMITS)
    resize = Resize(model.resize.height, InterpolationMode(model.interpolation), antialias=True)
    theirs = CenterCrop((model.height, model.width))(resize(torch.from_numpy(pixels).permute(2, 0, 1).double()))
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs.clamp(0, 1).permute(1, 2, 0).numpy()).max() < 5e-7


def test_floats_differ_from_bytes_by_the_rounding_of_two_directions() -> None:
    pixels = photo(300, 200)
    as_bytes, _ = preprocess(whole(pixels), card(), pb.PREPROCESS_MODEL_DEFAULT, LIMITS)
    as_floats, _ = preprocess(whole(pixels.astype(np.float32) / 255), card(), pb.PREPROCESS_MODEL_DEFAULT, LIMITS)
    assert np.abs(as_floats * 255 - as_bytes).max() <= 1.0 + 1e-3
    assert len(np.unique(as_floats)) > 256


def test_the_whole_image_is_squeezed() -> None:
    pixels = photo(100, 300)
    seen, region = preprocess(whole(pixels), card(), pb.PREPROCESS_WHOLE_IMAGE, LIMITS)
    assert (seen == np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR))).all()
    assert (region.x, region.y, region.width, region.height) == (0, 0, 300, 100)


def test_as_is_touches_nothing() -> None:
    pixels = photo(40, 77)
    seen, region = preprocess(whole(pixels), card(), pb.PREPROCESS_AS_IS, LIMITS)
    assert seen is pixels
    assert (region.width, region.height) == (77, 40)
    with pytest.raises(BadImage, match="at least 32"):
        preprocess(whole(photo(31, 77)), card(), pb.PREPROCESS_AS_IS, LIMITS)


def test_an_elongated_picture_is_not_blown_up() -> None:
    with pytest.raises(BadImage, match="WHOLE_IMAGE"):
        preprocess(whole(photo(1, 21)), card(), pb.PREPROCESS_MODEL_DEFAULT, LIMITS)
    assert preprocess(whole(photo(1, 20)), card(), pb.PREPROCESS_MODEL_DEFAULT, LIMITS)[0].shape == (224, 224, 3)


def test_nothing_is_resampled_where_the_size_is_right() -> None:
    pixels = photo(5, 7)
    assert resize(pixels, 5, 7, "bilinear") is pixels


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (224, 224), (31, 500)], ids=str)
@pytest.mark.parametrize("colours", [(), (3,)], ids=["grey", "colour"])
def test_png_keeps_every_pixel(size: tuple[int, int], colours: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, *colours), np.uint8)
    for each in (pixels, np.zeros_like(pixels), np.ascontiguousarray(pixels[::-1])[::-1]):
        with Image.open(io.BytesIO(png(each))) as picture:
            picture.load()
            assert picture.mode == ("RGB" if colours else "L")
            assert (np.asarray(picture) == each).all()


@pytest.mark.parametrize("turned", [1, 6, 3], ids="orientation {}".format)
@pytest.mark.parametrize(("shorter", "fraction"), [(224, 2), (213, 4), (427, 2), (428, 1), (106, 8), (8, 8)])
def test_a_large_photo_is_decoded_smaller_where_that_is_asked_for(shorter: int, fraction: int, turned: int) -> None:
    """The decoder's own averages, where at least twice the side that is needed is left."""
    photo = np.asarray(Image.fromarray(load_sample_image("china.jpg")).resize((2560, 1708)))
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = turned
    Image.fromarray(photo).save(file, "JPEG", quality=92, exif=exif)
    sent = pb.Image(encoded=file.getvalue())
    full, quick = decode(sent, LIMITS), decode(sent, LIMITS, shorter)
    assert (full.quick, quick.quick) == (False, fraction > 1)
    assert full.pixels.shape[:2] == (full.height, full.width) == (quick.height, quick.width)
    for ours, wanted in ((full, 1), (quick, fraction)):
        with Image.open(file) as reference:
            reference.draft("RGB", (2560 // wanted, 1708 // wanted))
            assert reference.size == (2560 // wanted, -(-1708 // wanted))
            assert (ours.pixels == np.asarray(ImageOps.exif_transpose(reference))).all()
    small, region = preprocess(quick, card(), pb.PREPROCESS_MODEL_DEFAULT, LIMITS)
    reference, same = preprocess(full, card(), pb.PREPROCESS_MODEL_DEFAULT, LIMITS)
    assert region == same
    assert shorter < 200 or np.abs(small.astype(int) - reference).mean() < 1.0


@pytest.mark.parametrize("turned", range(1, 9), ids="orientation {}".format)
def test_a_nearly_square_photo_is_turned_upright_where_its_smaller_decode_is_square(turned: int) -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = turned
    Image.fromarray(photo(803, 801)).save(file, "JPEG", exif=exif)
    sent = pb.Image(encoded=file.getvalue())
    full, quick = decode(sent, LIMITS), decode(sent, LIMITS, 50)
    assert quick.pixels.shape == (101, 101, 3)
    assert (quick.height, quick.width) == (full.height, full.width) == full.pixels.shape[:2]
    assert (full.height, full.width) == ((803, 801) if turned < 5 else (801, 803))
