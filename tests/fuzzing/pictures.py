"""Pictures as callers send them: files of many kinds, whole and damaged, and tensors that do not fit their shapes."""

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from paths import DATA
from PIL import Image
from serving import tensor

from gradserve.v1 import common_pb2 as pb

from .damage import damaged, seldom

KINDS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "I", "F"),
    "PPM": ("RGB",),
}
SIZES = [(8, 8), (12, 8), (40, 30), (1, 1), (1, 9), (2, 39), (300, 1), (1, 300), (64, 64)]
ORIENTATIONS = [None, None, None, *range(10), 65535]
SIDES = [0, 1, 7, 9, 255, 30_000, 65_535]
NUMBERS = [0.0, 1.0, 0.5, 0.1, 0.9, 1 + 1e-7, 1.1, -0.1, float("nan"), float("inf"), 1e30]
MAX_ODD_BYTES = 200_000  # Of a hostile file, so that a request stays cheap.


@cache
def _file(kind: str, mode: str, size: tuple[int, int], orientation: int | None) -> bytes:
    """A whole file of smooth colours."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype(np.uint8)
    colours = Image.fromarray(pixels)
    if mode in ("I;16", "I", "F"):
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        picture = Image.fromarray((pixels[..., 0] / (255 if mode == "F" else 1)).astype(dtype))
    else:
        picture = colours.convert("L").convert("LA") if mode == "LA" else colours.convert(mode)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    file = io.BytesIO()
    picture.save(file, kind, **({} if orientation is None or kind in ("BMP", "PPM") else {"exif": exif}))
    return file.getvalue()


def _resized(kind: str, data: bytes, width: int, height: int) -> bytes:
    """The file with another size in its header; its pixels stay as they are."""
    if kind == "PNG":
        header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if kind == "JPEG":
        at = data.find(b"\xff\xc0") + 5
        return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]
    if kind == "BMP":
        return data[:18] + struct.pack("<ii", width, height) + data[26:]
    if kind == "GIF":
        return data[:6] + struct.pack("<HH", width, height) + data[10:]
    return data


@cache
def _hostile_files() -> tuple[bytes, ...]:
    """The odd files beside the repository; none where they are not there."""
    files = sorted((DATA / "odd-images").glob("*_*"))
    return tuple(path.read_bytes() for path in files if path.stat().st_size <= MAX_ODD_BYTES)


@st.composite
def files(draw: Any) -> bytes:
    """The bytes of a picture's file, whole or damaged."""
    if _hostile_files() and draw(seldom(5)):
        data = draw(st.sampled_from(_hostile_files()))
    else:
        kind = draw(st.sampled_from(list(KINDS)))
        mode, size = draw(st.sampled_from(KINDS[kind])), draw(st.sampled_from(SIZES))
        data = _file(kind, mode, size, draw(st.sampled_from(ORIENTATIONS)))
        if draw(seldom(5)):
            data = _resized(kind, data, draw(st.sampled_from(SIDES)), draw(st.sampled_from(SIDES)))
    return draw(damaged(data)) if draw(seldom(3)) else data


@st.composite
def tensors(draw: Any) -> pb.Image:
    """Pixels as numbers, some of which no picture has, under a shape that may be another's."""
    width, height = draw(st.sampled_from(SIZES))
    channels = draw(st.sampled_from([3, 3, 3, 3, 1, 1, 2, 4, 0]))
    number = draw(st.sampled_from(NUMBERS))
    dtype = draw(st.sampled_from([np.uint8, np.float32]))
    with np.errstate(invalid="ignore"):
        image = tensor(np.full((height, width, channels), number * (255 if dtype is np.uint8 else 1)).astype(dtype))
    if draw(seldom(5)):
        image.tensor.shape[:] = draw(st.lists(st.sampled_from([0, 1, 3, 8, 2**16, 2**32 - 1]), max_size=5))
    if draw(seldom(5)):
        image.tensor.dtype = draw(st.sampled_from([0, 1, 2, 3, 4, 9, -1]))
    return image


def images() -> Any:
    """Pictures of all these kinds."""
    return files().map(lambda data: pb.Image(encoded=data)) | tensors()
