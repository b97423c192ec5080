import io

import numpy as np
import pytest
from PIL import Image

from gradserve import Region, colours, images
from gradserve.messages import inputs
from gradserve.v1 import common_pb2

from .conftest import jpeg


def test_a_path_and_bytes_are_sent_as_they_are(photo_path):
    data = photo_path.read_bytes()
    for image in (photo_path, str(photo_path), data, bytearray(data)):
        assert inputs.message(image).encoded == data


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        inputs.message(tmp_path / "none.jpg")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_pil_pictures_of_any_mode_arrive_unharmed(photo, mode):
    sent = photo.convert("RGB" if mode == "HSV" else mode).convert(mode)
    message = inputs.message(sent)
    assert Image.open(io.BytesIO(message.encoded)).format == "PNG"
    want = sent.convert("RGBA").convert("RGB") if mode in {"LA", "RGBA"} else sent.convert("RGB")
    assert np.array_equal(np.asarray(images.opened(message)), np.asarray(want))


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert images.opened(inputs.message(clear)).getpixel((0, 0)) == (255, 255, 255)


def test_orientation_is_applied(photo):
    turned = Image.Exif()
    turned[0x0112] = 6
    data = jpeg(photo, exif=turned)
    assert images.opened(inputs.message(data)).size == (60, 80)
    assert images.opened(inputs.message(Image.open(io.BytesIO(data)))).size == (60, 80)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_arrays(shape, dtype):
    pixels = (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(dtype)
    tensor = inputs.message(pixels).tensor
    assert list(tensor.shape) == [5, 7, shape[2] if len(shape) == 3 else 1]
    assert tensor.dtype == (common_pb2.DTYPE_UINT8 if dtype is np.uint8 else common_pb2.DTYPE_FLOAT32)
    assert np.allclose(images.array(tensor).reshape(shape), pixels, atol=1e-7)
    assert images.opened(inputs.message(pixels)).size == (7, 5)


def test_arrays_with_strides_and_foreign_byte_order():
    pixels = np.linspace(0, 1, 48).reshape(4, 4, 3)[:, ::-1].astype(">f4")
    assert np.array_equal(images.array(inputs.message(pixels).tensor), pixels)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((3, 8, 8)), "with channels first pass layout"),
        (np.zeros((8, 8, 5)), r"not \[8, 8, 5\]"),
        (np.zeros((0, 8, 3)), r"not \[0, 8, 3\]"),
        (np.zeros((8, 8), dtype=np.int64), "int64"),
        (np.full((8, 8), 255.0), "spans 255 to 255: divide it by 255"),
        (np.full((8, 8), np.nan), "has NaN: bring"),
        (Image.new("F", (4, 4)), "mode F.* or the file itself"),
        (17, "not int"),
    ],
)
def test_what_is_no_image(image, says):
    with pytest.raises(ValueError, match=says):
        inputs.message(image)


def test_a_map_from_png_keeps_its_scale():
    levels = np.array([[0, 51, 255]], dtype=np.uint8)
    values = images.map_from_png(images.png(Image.fromarray(levels)), -1.0, 4.0)
    assert values.dtype == np.float32
    assert np.allclose(values, [[-1, 0, 4]])


def test_colours_rise_and_diverge():
    rising = colours.coloured(np.linspace(0, 1, 64)[None], signed=False).astype(int).sum(-1)[0]
    assert (np.diff(rising) > 0).all()
    red, white, blue = colours.coloured(np.array([[0.8, 0.0, -0.8]]), signed=True)[0].astype(int)
    assert red[0] > red[2] + 80
    assert white.min() > 240
    assert blue[2] > blue[0] + 80


@pytest.mark.parametrize("values", [np.zeros((4, 4)), np.full((4, 4), 3.0), np.array([[np.nan, 1.0]])])
def test_dull_maps_have_pictures_too(values):
    assert images.heatmap(values.astype(np.float32)).size == values.shape[::-1]


def test_a_single_bright_pixel_is_seen():
    values = np.zeros((64, 64), dtype=np.float32)
    values[3, 5] = 2
    assert colours.scaled(values)[3, 5] == 1


def test_an_overlay_colours_the_region_and_darkens_the_rest(photo):
    values = np.zeros((8, 8), dtype=np.float32)
    values[:, 4:] = 1
    region = Region(10, 0, 60, 60, 80, 60)
    grey = Image.new("RGB", photo.size, (100, 100, 100))
    laid = np.asarray(images.overlay(grey, values, region.box())).astype(int)
    assert laid.shape == (60, 80, 3)
    assert (laid[:, :10] < 100).all()
    assert (laid[:, 70:] < 100).all()
    assert laid[30, 60].sum() > laid[30, 20].sum() + 100


def test_a_photo_stays_visible_in_pale_grey_where_the_map_is_zero(photo):
    values = np.zeros((60, 80), dtype=np.float32)
    values[:, 60:] = 1
    laid = np.asarray(images.overlay(photo, values, (0, 0, 80, 60))).astype(float)
    grey = np.asarray(photo.convert("L"), dtype=float)[:, :40, None]
    np.testing.assert_allclose(laid[:, :40], np.broadcast_to(255 - 0.65 * (255 - grey), (60, 40, 3)), atol=0.51)


@pytest.mark.parametrize("signed", [False, True])
def test_noise_over_a_photo_becomes_areas(signed):
    """Neighbouring pixels of the map differ as much as any, and those of the overlay little."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, (224, 224)) if signed else random.exponential(1, (224, 224))
    noise[:, :112] *= 0.1
    grey = Image.new("RGB", (448, 448), (128, 128, 128))
    laid = np.asarray(images.overlay(grey, noise.astype(np.float32), (0, 0, 448, 448))).astype(float)
    heat = np.asarray(images.heatmap(noise.astype(np.float32)).resize((448, 448))).astype(float)
    assert np.abs(np.diff(laid[:, 224:], axis=1)).mean() < 0.25 * np.abs(np.diff(heat[:, 224:], axis=1)).mean()
    colour = np.ptp(laid, axis=-1)
    assert colour[:, 234:].mean() > 3 * colour[:, :214].mean()


@pytest.mark.parametrize("cell", [1, 20])
def test_the_map_lies_exactly_on_its_region(cell):
    values = np.zeros((10, 10), dtype=np.float32)
    values[2, 7] = 1
    values = values.repeat(cell, axis=0).repeat(cell, axis=1)
    photo = Image.new("RGB", (400, 200))
    laid = np.asarray(images.overlay(photo, values, Region(100, 0, 200, 200, 400, 200).box())).astype(int).sum(-1)
    rows, columns = np.nonzero(laid > 0.9 * laid.max())
    assert abs(columns.mean() - (100 + 7.5 * 20)) <= 1
    assert abs(rows.mean() - 2.5 * 20) <= 1


def test_a_box_stays_inside_the_picture():
    assert Region(-0.4, 0.6, 100.2, 50, 100, 50).box() == (0, 1, 100, 50)
    assert Region(9.9, 0, 0.01, 5, 10, 5).box() == (9, 0, 10, 5)
    assert Region(1, 1, 2, 2, 4, 4).box(scale=3) == (3, 3, 9, 9)


def test_16_bits_of_grey_are_scaled_not_clipped():
    grey = np.full((4, 5), 32896, dtype=np.uint16)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    assert np.asarray(images.opened(inputs.message(file.getvalue()))).tolist() == [[[128] * 3] * 5] * 4
