"""Hostile and unusual files: each gets what ../shared/data/odd-images/expected.csv says."""

import csv
import io
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from paths import DATA
from PIL import Image
from serving import PATIENCE, Server, Stubs, refused

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import predict_pb2
from gradserve_server.api.pictures.images import BadImage, decode
from gradserve_server.config import LimitSettings

FOLDER = DATA / "odd-images"
LIMITS = LimitSettings()
MEMORY = 150 << 20  # Bytes that the front-end may grow by over a bad file.
PROMPT = 5.0  # Seconds of a processor that it may take for it.
TOO_LONG = {"ok_1x5000.png", "ok_5000x1.png"}  # Resizing a crop of them gives an error.

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs ../shared/data")


def rows() -> list[dict[str, str]]:
    if not FOLDER.is_dir():
        return []
    with (FOLDER / "expected.csv").open() as file:
        return list(csv.DictReader(file))


def pixels(name: str) -> np.ndarray[Any, Any]:
    return decode(pb.Image(encoded=(FOLDER / name).read_bytes()), LIMITS).pixels


def difference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def smaller(picture: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """The picture in the size of a file, some of which hold half of it."""
    with Image.open(FOLDER / name) as file:
        return np.asarray(Image.fromarray(picture).resize(file.size, Image.Resampling.LANCZOS))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["file"])
def test_each_file_gets_what_is_expected(server: Server, stubs: Stubs, row: dict[str, str]) -> None:
    request = predict_pb2.PredictRequest(model="digits")
    request.image.encoded = (FOLDER / row["file"]).read_bytes()
    (front_end,) = server.front_ends
    before, begun = front_end.memory_info().rss, sum(front_end.cpu_times()[:2])
    try:
        reply = stubs.gradients.Predict(request, timeout=PATIENCE)
    except grpc.RpcError as error:
        failure = refused(error)
        assert row["should_decode"] != "yes" or row["file"] in TOO_LONG, failure
        assert failure.code == "INVALID_ARGUMENT"
        assert set(failure.violations) == {"image"}
        assert sum(front_end.cpu_times()[:2]) - begun < PROMPT
        assert front_end.memory_info().rss - before < MEMORY
    else:
        assert row["should_decode"] != "no"
        assert row["file"] not in TOO_LONG
        assert np.isfinite([score.probability for score in reply.top]).all()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("name", sorted(TOO_LONG))
def test_the_whole_of_an_elongated_picture_can_be_asked_for(stubs: Stubs, name: str) -> None:
    request = predict_pb2.PredictRequest(model="digits", preprocess=pb.PREPROCESS_WHOLE_IMAGE)
    request.image.encoded = (FOLDER / name).read_bytes()
    assert stubs.gradients.Predict(request, timeout=PATIENCE).top


@pytest.mark.parametrize("name", [row["file"] for row in rows() if "bomb" in row["file"]])
def test_bombs_are_refused_from_their_header(name: str) -> None:
    process = psutil.Process()
    before, begun = process.memory_info().rss, time.process_time()
    with suppress(BadImage) if "ztxt" in name else pytest.raises(BadImage, match="pixels"):
        pixels(name)
    assert time.process_time() - begun < 1
    assert process.memory_info().rss - before < 64 << 20


def test_a_limit_above_pillows_own_is_kept_too(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("1", (1000, 1000)).save(file, "PNG")
    image = pb.Image(encoded=file.getvalue())
    assert decode(image, LimitSettings(max_image_pixels=1_000_000)).pixels.shape == (1000, 1000, 3)
    with pytest.raises(BadImage, match="1000x1000 pixels; at most 999999"):
        decode(image, LimitSettings(max_image_pixels=999_999))


def test_the_same_picture_in_other_clothes() -> None:
    jpeg, png = pixels("ok_baseline.jpg"), pixels("ok_baseline.png")
    assert (jpeg == pixels("ok_trailing_garbage.jpg")).all()
    assert (jpeg == pixels("ok_wrong_extension.png")).all() or difference(jpeg, pixels("ok_wrong_extension.png")) < 3
    for name, most in {
        "ok_24bit.bmp": 1,
        "ok_rgb16.png": 1,
        "ok_progressive.jpg": 8,
        "ok_jpeg444.jpg": 8,
        "ok_lossy.webp": 8,
        "ok_cmyk.jpg": 8,
        "ok_multipage.tiff": 1,
    }.items():
        assert difference(smaller(png, name), pixels(name)) <= most, name


def test_orientation_tags_are_honoured() -> None:
    upright = pixels("ok_baseline.jpg")
    height, width = upright.shape[:2]
    for name in ("ok_exif_orientation3.jpg", "ok_exif_orientation6.jpg"):
        turned = pixels(name)
        stored = np.asarray(Image.open(FOLDER / name).convert("RGB"))
        if name.endswith("6.jpg"):
            assert turned.shape[:2] == (stored.shape[1], stored.shape[0]) != stored.shape[:2]
            assert (turned == np.rot90(stored, -1)).all()
        else:
            assert (turned == stored[::-1, ::-1]).all()
        if turned.shape == upright.shape:
            assert difference(turned, upright) < 8
            assert difference(stored, upright) > 16 if stored.shape == upright.shape else True
    assert (height, width) != (width, height)


def test_transparency_is_laid_over_white() -> None:
    for name in ("ok_rgba.png", "ok_lossless_alpha.webp"):
        alpha = np.asarray(Image.open(FOLDER / name).convert("RGBA"))[..., 3]
        picture = pixels(name)
        assert (alpha == 0).any()
        assert (picture[alpha == 0] == 255).all()
        opaque = np.asarray(Image.open(FOLDER / name).convert("RGBA"))[..., :3]
        assert (picture[alpha == 255] == opaque[alpha == 255]).all()
    palette = np.asarray(Image.open(FOLDER / "ok_palette_transparent.png").convert("RGBA"))
    assert (pixels("ok_palette_transparent.png")[palette[..., 3] == 0] == 255).all()
    assert pixels("ok_gray_alpha.png").shape[2] == 3


def test_16_bits_and_floats_keep_their_brightness() -> None:
    grey = pixels("ok_gray.jpg")
    assert (grey[..., 0] == grey[..., 1]).all()
    assert abs(pixels("ok_gray16.png").mean() - grey.mean()) < 2
    assert abs(pixels("ok_interlaced.png").mean() - grey.mean()) < 2
    assert abs(pixels("ok_float32.tiff").mean() - grey.mean()) < 16
    assert set(np.unique(pixels("ok_1bit.png"))) == {0, 255}


def test_the_first_picture_of_several() -> None:
    for name in ("ok_animated.gif", "ok_multipage.tiff"):
        with Image.open(FOLDER / name) as file:
            file.seek(0)
            assert (pixels(name) == np.asarray(file.convert("RGB"))).all()
