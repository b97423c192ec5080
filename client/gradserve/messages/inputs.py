"""Pictures as callers have them: files, bytes, PIL pictures, arrays and tensors of any library -> Image message."""

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import ExifTags, Image, ImageOps

from gradserve import decoding
from gradserve.arguments import BatchLike, ImageLike, Layout
from gradserve.v1 import common_pb2

Array = np.ndarray[Any, Any]

_ORIENTATION = ExifTags.Base.Orientation
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}
_CHANNELS = (1, 3, 4)  # Grey, RGB, and RGB with alpha.


class UnusablePicture(ValueError):
    """What was given as a picture is none; the other arguments of the call may well be right."""


def message(image: ImageLike, layout: Layout = "HWC") -> common_pb2.Image:
    """A picture as an Image message.

    It is a path, a file's bytes, a file that is open for reading, a PIL picture, or whatever numpy reads as an array:
    [H, W] or, with the axes in the order of `layout`, 1, 3 or 4 channels; uint8, or floats in [0, 1]. A fourth channel
    is alpha, and the picture is laid over white. Raises UnusablePicture, TypeError and OSError, and ValueError for a
    layout that there is not.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}; not {layout!r}")
    try:
        return _message(image, layout)
    except ValueError as error:
        raise UnusablePicture(str(error)) from None


def _message(image: ImageLike, layout: Layout) -> common_pb2.Image:
    if isinstance(image, (str, os.PathLike)):
        return common_pb2.Image(encoded=Path(image).read_bytes())
    if isinstance(image, (bytes, bytearray, memoryview)):
        return common_pb2.Image(encoded=bytes(image))
    if isinstance(image, Image.Image):
        return common_pb2.Image(encoded=_png_of(image))
    if callable(getattr(image, "read", None)):
        return common_pb2.Image(encoded=_contents(image))
    if hasattr(image, "__array__"):
        return common_pb2.Image(tensor=_tensor_of(as_array(image), layout))
    kinds = "a path, bytes, an open file, a PIL image or an array"
    raise ValueError(f"an image is {kinds}, not {type(image).__name__}")


def as_array(image: Any) -> Array:
    """Whatever has `__array__` as an array of numpy's; tensors of torch leave their graph and their device."""
    try:
        if callable(getattr(image, "detach", None)):
            image = image.detach().cpu()
            image = image.float() if str(image.dtype).endswith("bfloat16") else image  # Numpy has no bfloat16.
        return np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"an image of type {type(image).__name__} gives no array: {error}") from None


def batch(pictures: BatchLike) -> list[Any]:
    """The pictures one by one: of a list, of an array of four dimensions, or a single picture."""
    if isinstance(pictures, (list, tuple)):
        return list(pictures)
    array = as_array(pictures) if hasattr(pictures, "__array__") else None
    return list(array) if array is not None and array.ndim == 4 else [pictures]


def many(images: Iterable[ImageLike]) -> Iterable[ImageLike]:
    """What has many pictures: an iterable of them, or an array of four dimensions. Raises ValueError for one."""
    one = isinstance(images, (str, bytes, bytearray, os.PathLike, Image.Image)) or hasattr(images, "read")
    if one or not (hasattr(images, "__iter__") or hasattr(images, "__array__")):
        raise ValueError(f"images are a list, an iterator or an array of pictures, not {type(images).__name__}")
    if not hasattr(images, "__array__"):
        return images
    array = as_array(images)
    if array.ndim != 4:
        hint = "; a single picture goes in a list" if array.ndim in (2, 3) else ""
        raise ValueError(f"an array of images has four axes, [N, H, W, 3], not {list(array.shape)}{hint}")
    return array


def _contents(file: Any) -> bytes:
    """All bytes of a file that is open, from its beginning where it can be wound back."""
    if getattr(file, "closed", False):
        raise ValueError("the file of an image is closed; open it again, or pass its path")
    if isinstance(file, io.BytesIO):
        data = file.getvalue()
    else:
        if callable(getattr(file, "seekable", None)) and file.seekable():
            file.seek(0)
        data = file.read()
    if not isinstance(data, bytes):
        raise TypeError("the file of an image is open for text; open it with mode 'rb'")
    if not data:
        raise ValueError("the file of an image is empty")
    return data


def _png_of(picture: Image.Image) -> bytes:
    if decoding.has_sixteen_bits(picture):
        grey = Image.fromarray(decoding.sixteen_bits(picture))
        grey.getexif()[_ORIENTATION] = picture.getexif().get(_ORIENTATION, 1)
        picture = grey
    elif picture.mode in {"F", "I"}:
        raise ValueError(
            f"PIL mode {picture.mode} has no fixed range; pass a numpy array of floats in [0, 1], or the file itself"
        )
    elif picture.mode not in _PNG_MODES:
        picture = picture.convert("RGBA" if picture.mode in {"PA", "RGBa", "La"} else "RGB")
    picture = ImageOps.exif_transpose(picture)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _tensor_of(pixels: Array, layout: Layout) -> common_pb2.Tensor:
    pixels = _channels_last(pixels, layout)
    if pixels.dtype == np.uint8:
        if pixels.shape[-1] == 4:
            pixels = np.asarray(decoding.to_rgb(Image.fromarray(pixels)))
        return _tensor(pixels, common_pb2.DTYPE_UINT8, "u1")
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"an image array is uint8, or float in [0, 1], not {pixels.dtype}")
    pixels = decoding.unit_range(pixels)
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:]
        pixels = pixels[..., :3] * alpha + (1 - alpha)
    return _tensor(pixels, common_pb2.DTYPE_FLOAT32, "<f4")


def _channels_last(pixels: Array, layout: Layout) -> Array:
    """The array as [H, W, C]. Raises ValueError where its shape is not one of the layout's."""
    shape = list(pixels.shape)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif pixels.ndim == 3 and layout == "CHW":
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] in _CHANNELS and 0 not in pixels.shape:
        return pixels
    allowed = [f"[{c}, H, W]" if layout == "CHW" else f"[H, W, {c}]" for c in _CHANNELS]
    raise ValueError(f"an image array is [H, W], {', '.join(allowed)}, not {shape}{_hint(shape, layout)}")


def _hint(shape: list[int], layout: Layout) -> str:
    """What may have been meant."""
    if len(shape) == 4:
        return "; this is a batch: index it, or call one of the methods for many pictures"
    if len(shape) != 3:
        return ""
    if layout == "HWC":
        return '; with channels first pass layout="CHW"' if shape[0] in _CHANNELS else ""
    return '; with channels last leave layout="CHW" out' if shape[-1] in _CHANNELS else ""


def _tensor(pixels: Array, dtype: common_pb2.DType, kind: str) -> common_pb2.Tensor:
    return common_pb2.Tensor(shape=pixels.shape, dtype=dtype, data=pixels.astype(kind).tobytes())
