"""Objects that are cut out by maps: of known masks, through a server, and where there are none."""

import io

import numpy as np
import pytest
from PIL import Image
from serving import shared
from skimage.data import astronaut

from gradserve import Client, InvalidArgument
from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.maps.segments import segment, segment_message

SIDE = 96


def ellipse(height: int = SIDE, width: int = SIDE, x: float = 0.4, y: float = 0.55) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return ((columns / width - x) / 0.2) ** 2 + ((rows / height - y) / 0.25) ** 2 < 1


def composite(mask: np.ndarray) -> np.ndarray:
    """A picture whose object is orange, and the rest of it a photo, greenish."""
    photo = np.asarray(Image.fromarray(astronaut()).resize(mask.shape[::-1])) // 3 + np.array([0, 120, 30], np.uint8)
    noise = np.random.default_rng(0).integers(-20, 20, (*mask.shape, 3))
    orange = np.clip(np.array([230, 120, 20]) + noise, 0, 255)
    return np.where(mask[..., None], orange, photo).astype(np.uint8)


def blob(mask: np.ndarray) -> np.ndarray:
    """A map that is strong in a part of the mask alone, and negative elsewhere."""
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]]
    spread = 0.02 * min(mask.shape) ** 2
    near = np.exp(-((x - columns.mean()) ** 2 + (y - rows.mean()) ** 2) / (2 * spread))
    return (near - 0.05).astype(np.float32)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("size", [(SIDE, SIDE), (64, 120), (700, 500)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_known_object_is_found(size: tuple[int, int], dtype: type) -> None:
    mask = ellipse(*size)
    pixels = composite(mask)
    given = pixels if dtype is np.uint8 else pixels.astype(np.float32) / 255
    found = segment(given, blob(mask))
    assert found is not None
    assert found.mask.shape == size
    assert overlap(found.mask, mask) > 0.9
    again = segment(given, blob(mask))
    assert again is not None
    assert np.array_equal(found.mask, again.mask)


def test_the_largest_part_alone_counts() -> None:
    mask, other = ellipse(), np.zeros((SIDE, SIDE), bool)
    other[5:15, 80:92] = True
    found = segment(composite(mask | other), blob(mask) + blob(other))
    assert found is not None
    assert overlap(found.mask, mask) > 0.9
    assert not found.mask[other].any()


@pytest.mark.parametrize("values", [np.zeros((8, 8)), np.ones((8, 8)), -np.ones((8, 8)), np.full((3, 1), 2.0)])
def test_a_map_that_points_to_nothing(values: np.ndarray) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*values.shape, 3), np.uint8)
    assert segment(pixels, values.astype(np.float32)) is None


def test_a_picture_of_one_colour() -> None:
    values = blob(ellipse())
    found = segment(np.full((SIDE, SIDE, 3), 90, np.uint8), values)
    assert found is None or 0 < found.mask.mean() < 1


def test_box_and_outline_are_in_pixels_of_the_original() -> None:
    mask = ellipse()
    found = segment(composite(mask), blob(mask))
    assert found is not None
    region = pb.Region(x=100, y=20, width=2 * SIDE, height=3 * SIDE, image_width=400, image_height=330)
    message = segment_message(found, region)
    rows, columns = np.nonzero(found.mask)
    assert message.box.x0 == pytest.approx(100 + 2 * columns.min())
    assert message.box.y1 == pytest.approx(20 + 3 * (rows.max() + 1))
    xs, ys = message.outline[::2], message.outline[1::2]
    assert message.box.x0 < min(xs) < max(xs) < message.box.x1
    assert message.box.y0 < min(ys) < max(ys) < message.box.y1
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(message.mask))) == 255, found.mask)
    assert message.share == pytest.approx(found.mask.mean())


def test_of_every_map_through_a_server() -> None:
    photo = Image.fromarray(astronaut())
    with Client(shared().address) as client:
        maps = client.explain(photo, ["grad_cam", "smooth_grad"], target=[0, 3], model="small", segment=True)
        plain = client.explain(photo, ["grad_cam", "smooth_grad"], target=[0, 3], model="small")
    assert maps[0].provenance.rows == plain[0].provenance.rows
    for each, same in zip(maps, plain, strict=True):
        assert np.allclose(each.map, same.map, atol=1e-4 * abs(same.map).max())
        assert (each.segment is None) == any(text.startswith("NO_SEGMENT") for text in each.warnings)
        if each.segment is not None:
            assert each.segment.mask.shape == each.map.shape
            x0, y0, x1, y1 = each.segment.box
            assert 0 <= x0 < x1 <= photo.width
            assert 0 <= y0 < y1 <= photo.height
            assert each.cutout().mode == "RGBA"
            assert each.to_dict()["segment"]["box"] == [x0, y0, x1, y1]
    assert any(each.segment for each in maps)
    assert plain[0].segment is None


def test_too_many_are_refused() -> None:
    with Client(shared().address) as client, pytest.raises(InvalidArgument, match="at most 16 maps are cut out"):
        client.explain(np.zeros((8, 8, 3), np.uint8), ["gradient", "grad_cam"], target=list(range(9)), segment=True)
