"""What the numbers of a picture mean: every kind that Pillow opens becomes 8-bit RGB.

The server decodes with these functions too, so that both sides see the same picture.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Array = np.ndarray[Any, Any]

RANGE_TOLERANCE = 1e-6  # Floats may leave [0, 1] by this much.
MIN_LIKELY_MAX = 2.0  # Floats whose largest is from here to 255 are likely to be levels.
BAND_PIXELS = 1 << 18  # About as many pixels are converted at a time.
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # Tags and a value of TIFF 6.0, baseline.


class OutOfRange(ValueError):
    """The numbers of a picture have no clear meaning as brightness; the text says which are allowed."""


def to_rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode as upright RGB, transparency over white. Turns the given one too. Raises OutOfRange."""
    ImageOps.exif_transpose(picture, in_place=True)
    if has_sixteen_bits(picture):
        return _grey(picture, lambda band: _sixteen_bits(band, picture) / 257)
    if picture.mode in ("I", "F"):
        white = 1 if picture.mode == "I" else 255
        (_check_levels if picture.mode == "I" else _check_unit_range)(*_extremes(picture))
        inverted = _white_is_zero(picture)

        def levels(band: Array) -> Array:
            light = (band * white).clip(0, 255)
            return 255 - light if inverted else light

        return _grey(picture, levels)
    if picture.has_transparency_data:
        return _over_white(picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def has_sixteen_bits(picture: Image.Image) -> bool:
    """Whether it has integers of 16 bits, or 12, without signs; older Pillow reads such PNG files in mode "I"."""
    return picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG")


def sixteen_bits(picture: Image.Image) -> Array:
    """The brightness of such a picture as uint16, 65535 being white."""
    return _sixteen_bits(np.asarray(picture), picture)


def _sixteen_bits(values: Array, picture: Image.Image) -> Array:
    """The brightness that some values of such a picture stand for, as uint16."""
    values = values.astype(np.uint16)
    if _tiff_tag(picture, BITS_PER_SAMPLE) == (12,):
        values = (values * (65535 / 4095)).round().astype(np.uint16)
    elif "transparency" in picture.info:  # A PNG file may declare one value as transparent.
        values = np.where(values == picture.info["transparency"], np.uint16(65535), values)
    return 65535 - values if _white_is_zero(picture) else values


def unit_range(values: Array) -> Array:
    """Floats in [0, 1], where rounding may have led them 1e-6 out of it: these are clamped. Raises OutOfRange."""
    low, high = float(values.min()), float(values.max())
    _check_unit_range(low, high)
    return values if low >= 0 and high <= 1 else values.clip(0, 1)


def _check_unit_range(low: float, high: float) -> None:
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):  # This is false for NaN too.
        spans = "has NaN" if math.isnan(low) else f"spans {low:.10g} to {high:.10g}"
        hint = "divide it by 255" if low >= 0 and MIN_LIKELY_MAX <= high <= 255 else "bring its numbers into this range"
        raise OutOfRange(f"a float picture must lie in [0, 1]; this one {spans}: {hint}")


def _check_levels(low: float, high: float) -> None:
    if not 0 <= low <= high <= 255:
        raise OutOfRange(
            "a picture of integers with 32 bits or with signs must lie in 0 to 255, since its white is not known "
            f"otherwise; this one spans {low:.0f} to {high:.0f}: save it with 8 or 16 bits without signs"
        )


def _extremes(picture: Image.Image) -> tuple[float, float]:
    """Its smallest and its largest number; NaN where one is."""
    found = [(values.min(), values.max()) for values in (np.asarray(band) for _, band in _bands(picture))]
    return float(np.min(found)), float(np.max(found))


def _grey(picture: Image.Image, levels: Callable[[Array], Array]) -> Image.Image:
    """A grey picture as RGB; `levels` makes brightness, from 0 to 255 before rounding, of the numbers of a band."""
    whole = Image.new("RGB", picture.size, None)
    for top, band in _bands(picture):
        grey = levels(np.asarray(band)).round().astype(np.uint8)
        whole.paste(Image.fromarray(grey).convert("RGB"), (0, top))
    return whole


def _over_white(picture: Image.Image) -> Image.Image:
    """A picture with transparency over white, as RGB."""
    whole = Image.new("RGB", picture.size, None)
    for top, band in _bands(picture):
        white = Image.new("RGBA", band.size, "white")
        whole.paste(Image.alpha_composite(white, band.convert("RGBA")).convert("RGB"), (0, top))
    return whole


def _bands(picture: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The first row and the pixels of bands of about BAND_PIXELS.

    Copies of a whole picture would take memory, and the interpreter from other threads for as long as they are made.
    """
    rows = max(1, BAND_PIXELS // max(1, picture.width))
    for top in range(0, picture.height, rows):
        yield top, picture.crop((0, top, picture.width, min(top + rows, picture.height)))


def _white_is_zero(picture: Image.Image) -> bool:
    return bool(_tiff_tag(picture, PHOTOMETRIC) == WHITE_IS_ZERO)


def _tiff_tag(picture: Image.Image, number: int) -> Any:
    return getattr(picture, "tag_v2", {}).get(number)
