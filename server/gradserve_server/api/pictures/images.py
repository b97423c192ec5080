"""Pictures: decoding, the model's preprocessing, and encoding maps. Everything here runs in threads."""

import io
import math
import os
import struct
from typing import Any, NamedTuple

import numpy as np
from isal import isal_zlib
from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError

from gradserve.decoding import OutOfRange, has_sixteen_bits, to_rgb, unit_range
from gradserve.v1 import common_pb2 as pb

from ...config import LimitSettings
from ...models.card import ModelCard
from ...models.preprocess import BadImage, Picture, center_crop, check_aspect, resize, shorter_side, size_of
from ..errors import Violations
from ..fields import enum_name
from .decode_limits import DecodeMemory, count_pixels, decode_bytes

Image.MAX_IMAGE_PIXELS = None  # This module checks sizes itself before it decodes, against the limit of the settings.
if "PILLOW_BLOCKS_MAX" not in os.environ:
    # Eight blocks of 16 MB are kept from one picture for the next. Fresh memory for a photo of 12 megapixels takes as
    # long as decoding it. Pillow reads the variable when it is imported, and has no other public switch.
    Image.core.set_blocks_max(8)  # type: ignore[attr-defined]
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
DTYPE: Any = pb.DType.DESCRIPTOR
DTYPES: dict[int, np.dtype[Any]] = {pb.DTYPE_UINT8: np.dtype("uint8"), pb.DTYPE_FLOAT32: np.dtype("<f4")}
# A file's size is read from so many bytes, on the event loop: longer ones could be made to take long to read.
HEADER_BYTES = 1 << 17
HEADER_FORMATS = ("JPEG", "GIF", "BMP")  # Pillow opens these from their first bytes, and allocates nothing for them.
PNG_HEADER_BYTES = 24  # The signature, the length and name of the first block, and two sides of 4 bytes.
WEBP_HEADER_BYTES = 30  # Up to the sides, whichever the kind of the first block is.
PNG_SIGNATURE, PNG_UP, PNG_COLOURS, PNG_LEVEL = b"\x89PNG\r\n\x1a\n", 2, {1: 0, 3: 2}, 1
QUICK_FACTOR = 2  # The quick decode keeps at least this many times the needed side.
SIDEWAYS_EXIF = (5, 6, 7, 8)  # EXIF orientations of files whose width is the height of the upright picture.
_memory = DecodeMemory()


class DecodedPicture(NamedTuple):
    """RGB as a picture or as an array [h, w, 3], uint8 or float32 in [0, 1]; and the file's own height and width."""

    source: Picture
    height: int
    width: int

    @property
    def pixels(self) -> np.ndarray:
        """As an array [h, w, 3], uint8 or float32."""
        return np.asarray(self.source)

    @property
    def quick(self) -> bool:
        """Whether it was decoded smaller than it is."""
        return size_of(self.source) != (self.height, self.width)


class ModelInput(NamedTuple):
    """What the model gets of a picture, [h, w, 3]; the part of it that this shows; how it was decoded and resized."""

    pixels: np.ndarray
    region: pb.Region
    quick_decode: bool = False
    preprocess: pb.Preprocess = pb.PREPROCESS_WHOLE_IMAGE


def free_blocks() -> None:
    """Frees the memory that Pillow keeps of pictures for the next ones."""
    Image.core.clear_cache()  # type: ignore[attr-defined]


def header_size(image: pb.Image) -> tuple[int, int] | None:
    """Height and width of an array or of a file, without decoding it; None where the file's beginning does not say.

    That of a TIFF file need not: its size may stand anywhere in it. PNG and WebP files are taken as lying upright.
    """
    if image.WhichOneof("kind") == "tensor":
        return (image.tensor.shape[0], image.tensor.shape[1]) if len(image.tensor.shape) == 3 else None
    start = image.encoded[:HEADER_BYTES]
    if start.startswith(PNG_SIGNATURE) and len(start) >= PNG_HEADER_BYTES:
        width, height = struct.unpack_from(">II", start, PNG_HEADER_BYTES - 8)
        return height, width
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP" and len(start) >= WEBP_HEADER_BYTES:
        return _webp_size(start)
    try:
        with Image.open(io.BytesIO(start), formats=HEADER_FORMATS) as picture:
            return _upright(picture.size, picture)
    except Exception:  # Pillow raises errors of any type for a damaged file.
        return None


def _webp_size(start: bytes) -> tuple[int, int] | None:
    """Height and width of a WebP file, by its first block (RFC 9649, sections 2.5 to 2.7)."""
    if start[12:16] == b"VP8X":
        return int.from_bytes(start[27:30], "little") + 1, int.from_bytes(start[24:27], "little") + 1
    if start[12:16] == b"VP8L":
        sides = int.from_bytes(start[21:25], "little")
        return (sides >> 14 & 0x3FFF) + 1, (sides & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", start, 26)
    return (height & 0x3FFF, width & 0x3FFF) if start[12:16] == b"VP8 " else None


def decode(
    image: pb.Image, limits: LimitSettings, shorter: int | None = None, *, over_black: bool = False
) -> DecodedPicture:
    """The picture, decoded whole. Raises BadImage.

    `shorter`: the side that is needed, if the picture may be decoded smaller than it is. JPEG files of at least four
    times that side then are. `over_black`: whether transparency is laid over black, and not over white.
    """
    kind = image.WhichOneof("kind")
    if kind == "encoded":
        return _decode_file(image.encoded, limits, shorter, over_black)
    if kind == "tensor":
        pixels = _decode_tensor(image.tensor, limits)
        return DecodedPicture(pixels, *pixels.shape[:2])
    raise BadImage("no picture was sent: set encoded or tensor")


def _decode_file(data: bytes, limits: LimitSettings, shorter: int | None, over_black: bool) -> DecodedPicture:
    if not data:
        raise BadImage("the file is empty")
    try:
        picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > limits.max_image_pixels:
            raise _too_large(picture.width, picture.height, limits)
        size = picture.size
        count_pixels(size[0] * size[1], limits.max_request_pixels)
        if shorter is not None:
            picture.draft("RGB", (QUICK_FACTOR * shorter, QUICK_FACTOR * shorter))
        with _memory.of(decode_bytes(picture, size)):
            picture.load()
            height, width = _upright(size, picture)
            rgb = to_rgb(picture)
            darken = over_black and picture.has_transparency_data
            return DecodedPicture(_without_white(rgb, picture) if darken else rgb, height, width)
    except BadImage:
        raise
    except OutOfRange as error:
        raise BadImage(str(error)) from error
    except UnidentifiedImageError as error:
        kinds = "or of a kind that is not read, such as a TIFF of several float channels or of 64 bits"
        allowed = f"allowed: {', '.join(FORMATS)}; save it as PNG"
        raise BadImage(f"not a picture, damaged, of an unsupported format, {kinds}; {allowed}") from error
    except Exception as error:  # Pillow's decoders raise errors of any type for a damaged file.
        what = str(error) or type(error).__name__
        raise BadImage(f"the picture cannot be decoded: {what}; send the whole file, or save it anew as PNG") from error


def _without_white(rgb: Image.Image, picture: Image.Image) -> Image.Image:
    """A picture that was laid over white as over black: less the white that shone through."""
    if has_sixteen_bits(picture):  # A PNG file may declare one value as transparent.
        clear = np.asarray(picture) == picture.info["transparency"]
        white = Image.fromarray(np.where(clear, 255, 0).astype(np.uint8))
    else:
        white = ImageChops.invert(picture.convert("RGBA").getchannel("A"))
    return ImageChops.subtract(rgb, Image.merge("RGB", [white] * 3))


def _upright(size: tuple[int, int], picture: Image.Image) -> tuple[int, int]:
    """Height and width of the upright picture, from the file's own width and height. This reads a PNG file whole."""
    width, height = size[::-1] if picture.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS_EXIF else size
    return height, width


def _too_large(width: int, height: int, limits: LimitSettings) -> BadImage:
    return BadImage(f"the picture has {width}x{height} pixels; at most {limits.max_image_pixels} are allowed")


def _decode_tensor(tensor: pb.Tensor, limits: LimitSettings) -> np.ndarray:
    shape, dtype = tuple(tensor.shape), DTYPES.get(tensor.dtype)
    if dtype is None:
        raise BadImage(f"tensor.dtype must be UINT8 or FLOAT32, was {enum_name(DTYPE, tensor.dtype).upper()}")
    if len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape:
        raise BadImage(f"tensor.shape must be [H, W, 1] or [H, W, 3], was {list(shape[:4])}{'...' * (len(shape) > 4)}")
    if shape[0] * shape[1] > limits.max_image_pixels:
        raise _too_large(shape[1], shape[0], limits)
    count_pixels(shape[0] * shape[1], limits.max_request_pixels)
    if len(tensor.data) != math.prod(shape) * dtype.itemsize:
        raise BadImage(f"tensor.data must have {math.prod(shape) * dtype.itemsize} bytes, had {len(tensor.data)}")
    values = np.frombuffer(tensor.data, dtype).reshape(shape)
    if dtype.kind == "f":
        try:
            values = unit_range(values)
        except OutOfRange as error:
            raise BadImage(str(error)) from error
    return np.repeat(values, 3, axis=2) if shape[2] == 1 else values


def preprocess(
    picture: DecodedPicture, card: ModelCard, how: int, limits: LimitSettings
) -> tuple[np.ndarray, pb.Region]:
    """The model's input [h, w, 3] of the same type, and the part of the picture it shows. Raises BadImage."""
    source, height, width = picture
    region = pb.Region(width=width, height=height, image_width=width, image_height=height)
    if how == pb.PREPROCESS_AS_IS:
        _check_size(height, width, card, limits)
        return picture.pixels, region
    if how == pb.PREPROCESS_WHOLE_IMAGE:
        return resize(source, card.height, card.width, card.interpolation), region
    pixels, crop = center_crop(source, (height, width), card, limits.max_aspect)
    region.x, region.y, region.width, region.height = crop
    return pixels, region


def fits(height: int, width: int, card: ModelCard, limits: LimitSettings) -> bool:
    """Whether the model takes an image of that size."""
    if max(height, width) > limits.max_aspect * min(height, width):
        return False
    return min(height, width) >= card.min_size and height * width <= limits.max_input_pixels


def sizes_taken(card: ModelCard, limits: LimitSettings) -> str:
    """What `fits` asks for, in words."""
    area = f"at most {limits.max_input_pixels} pixels in all"
    return f"sides of at least {card.min_size} pixels, {area} and at most {limits.max_aspect:g} to 1"


def _check_size(height: int, width: int, card: ModelCard, limits: LimitSettings) -> None:
    own = f"{card.width}x{card.height}"
    if (height, width) == (card.height, card.width):
        return
    if not card.any_size:
        raise BadImage(f"AS_IS needs a {own} picture for {card.name}, this one is {width}x{height}")
    check_aspect(height, width, limits.max_aspect)
    if not fits(height, width, card, limits):
        raise BadImage(f"AS_IS takes {sizes_taken(card, limits)} for {card.name}; this picture is {width}x{height}")


def model_input(
    image: pb.Image,
    card: ModelCard,
    how: int,
    limits: LimitSettings,
    violations: Violations,
    path: str = "image",
    *,
    quick: bool = False,
) -> ModelInput | None:
    """The picture decoded and preprocessed, or None with a violation of the field `path`.

    `quick`: large JPEG files may be decoded smaller where they are cropped to the model's size.
    """
    quick = quick and how == pb.PREPROCESS_MODEL_DEFAULT
    try:
        picture = decode(image, limits, shorter_side(card) if quick else None)
    except BadImage as error:
        violations.add(path, str(error), for_every_model=True)
        return None
    try:
        return ModelInput(*preprocess(picture, card, how, limits), picture.quick)
    except BadImage as error:
        violations.add(path, str(error))
        return None


def png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W] or [H, W, 3] as PNG: rows less the row above (filter 2), compressed by ISA-L.

    Three to thirty times faster than Pillow's encoder at its lowest level, which tries all filters, and about as large.
    """
    height, width, channels = (*pixels.shape, 1)[:3]
    rows = pixels.reshape(height, width * channels)
    filtered = np.empty((height, width * channels + 1), np.uint8)
    filtered[:, 0] = PNG_UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    data = isal_zlib.compress(filtered.data, PNG_LEVEL)
    header = struct.pack(">IIBBBBB", width, height, 8, PNG_COLOURS[channels], 0, 0, 0)
    return PNG_SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))
