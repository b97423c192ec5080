"""Pictures of messages, and pictures of maps."""

import io
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gradserve import colours, decoding
from gradserve.v1 import common_pb2

Array = np.ndarray[Any, Any]
Box = tuple[int, int, int, int]

_DTYPES: dict[int, np.dtype[Any]] = {
    common_pb2.DTYPE_UINT8: np.dtype("u1"),
    common_pb2.DTYPE_FLOAT32: np.dtype("<f4"),
    common_pb2.DTYPE_FLOAT16: np.dtype("<f2"),
}
_NEAREST = Image.Resampling.NEAREST
_MIN_SHEET_WIDTH, _NAME_HEIGHT = 64, 16  # Pixels, of the pictures on a sheet and of the line below them.
# Of an overlay: values of the map to a side; how much colour covers at the strongest, for an alpha of 1; how far the
# grey of the photo is moved towards white; how bright the photo is outside the part that was seen.
_MAX_CELLS, _COVER, _PALENESS, _OUTSIDE = 64, 1.8, 0.35, 0.6


def opened(image: common_pb2.Image) -> Image.Image:
    """The picture of an Image message as the server sees it: upright, RGB, transparency over white."""
    if image.WhichOneof("kind") == "tensor":
        pixels = array(image.tensor)
        if pixels.dtype != np.uint8:
            pixels = (pixels * 255).round().astype(np.uint8)
        return Image.fromarray(np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels)
    return from_file(image.encoded)


def array(tensor: common_pb2.Tensor) -> Array:
    """The numbers of a Tensor message, read-only and without a copy."""
    return np.frombuffer(tensor.data, dtype=_DTYPES[tensor.dtype]).reshape(tuple(tensor.shape))


def numbers(tensor: common_pb2.Tensor) -> Array:
    """The numbers of a Tensor of floating-point values, as float32."""
    shape = tuple(tensor.shape)
    if tensor.dtype == common_pb2.DTYPE_BFLOAT16:
        upper = np.frombuffer(tensor.data, "<u2").astype(np.uint32)
        return (upper << np.uint32(16)).view(np.float32).reshape(shape)
    if tensor.dtype == common_pb2.DTYPE_FLOAT16:
        return np.take(_half_numbers(), np.frombuffer(tensor.data, "<u2")).reshape(shape)
    return array(tensor).astype(np.float32)


@cache
def _half_numbers() -> Array:
    """Every float16 as float32, by its bits: looking numbers up is quicker than numpy's conversion."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def map_from_png(png: bytes, low: float, high: float) -> Array:
    """A map that came as 8-bit PNG: low + pixel / 255 * (high - low)."""
    levels = np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=np.float32)
    return (low + levels / np.float32(255) * (high - low)).astype(np.float32)


def mask(png: bytes) -> Array:
    """A mask that came as 8-bit PNG, as bool: white is True."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("L")) > 127


def from_file(data: bytes) -> Image.Image:
    """The picture in the bytes of a file: upright, RGB, transparency over white."""
    return decoding.to_rgb(Image.open(io.BytesIO(data)))


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def sheet(pictures: Sequence[Image.Image], names: Sequence[str], columns: int = 0, gap: int = 4) -> Image.Image:
    """Pictures in rows on white, as many to a row as make it nearly square, each over its name, cut where it is long.

    Pictures narrower than 64 pixels are enlarged by a whole factor, so that names can be read.
    """
    columns = columns or math.ceil(len(pictures) ** 0.5)
    rows = math.ceil(len(pictures) / columns)
    factor = -(-_MIN_SHEET_WIDTH // max(picture.width for picture in pictures))
    large = [picture.resize((picture.width * factor, picture.height * factor), _NEAREST) for picture in pictures]
    width, height = (max(picture.size[axis] for picture in large) + gap for axis in (0, 1))
    height += _NAME_HEIGHT
    paper = Image.new("RGB", (min(columns, len(large)) * width - gap, rows * height - gap), "white")
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(12)
    for place, (picture, name) in enumerate(zip(large, names, strict=True)):
        left, top = place % columns * width, place // columns * height
        paper.paste(picture, (left, top))
        draw.text((left, top + picture.height + 1), fitting(name, width - gap, font), "black", font)
    return paper


def fitting(text: str, width: int, font: Any) -> str:
    """The text, cut to so many pixels; what is cut off ends in dots."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def heatmap(values: Array, colormap: colours.Colormap | None = None) -> Image.Image:
    """The map in colours: by default inferno, or RdBu_r around zero where it has negative values."""
    level = colours.scaled(values)
    return Image.fromarray(colours.coloured(level, signed=colours.signed(values), colormap=colormap))


def overlay(
    photo: Image.Image,
    values: Array,
    box: Box,
    *,
    alpha: float = 0.5,
    colormap: colours.Colormap | None = None,
    largest: float | None = None,
) -> Image.Image:
    """The map laid over the part (left, top, right, bottom) of the photo; colour covers most where the map is strong.

    The photo is shown in pale grey, and dark outside the part that the model saw. Of a map with more than 64 values to
    a side neighbours are averaged to so many, since single pixels of noisy maps cannot be seen over a photo.
    `largest`: the value of the strongest colour, by default that of the map.
    """
    left, top, right, bottom = box
    cells = _shrunk(values)
    signed = colours.signed(cells)
    levels = colours.scaled(cells) if largest is None else cells / largest
    level = np.clip(_resized(levels, (bottom - top, right - left)), -1.0 if signed else 0.0, 1.0)
    ink = colours.coloured(level, signed=signed, colormap=colormap).astype(np.float64)
    grey = np.asarray(photo.convert("L"), dtype=np.float64)[..., None]
    cover = np.clip(_COVER * alpha * np.abs(level), 0, 1)[..., None]
    paper = grey[top:bottom, left:right]
    result = np.repeat(grey * _OUTSIDE, 3, axis=-1)
    result[top:bottom, left:right] = (paper + _PALENESS * (255 - paper)) * (1 - cover) + ink * cover
    return Image.fromarray(result.round().astype(np.uint8))


def _shrunk(values: Array) -> Array:
    height, width = values.shape
    scale = min(1.0, _MAX_CELLS / max(height, width))
    return values if scale == 1 else _resized(values, (max(1, round(height * scale)), max(1, round(width * scale))))


def _resized(values: Array, shape: tuple[int, int]) -> Array:
    """Shrunk by averaging under a triangle, or enlarged along smooth curves."""
    way = Image.Resampling.BILINEAR if shape[0] < values.shape[0] else Image.Resampling.BICUBIC
    grey = Image.fromarray(values.astype(np.float32))
    return np.asarray(grey.resize((shape[1], shape[0]), way), dtype=np.float64)
