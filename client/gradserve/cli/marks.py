"""The mark in a PNG file that its pixels are a model's input already."""

import io
from pathlib import Path

from PIL import Image, PngImagePlugin

KEY, AS_IS = "gradserve:preprocess", "as_is"  # Keyword and value of a text chunk.


def save(png: bytes, path: Path) -> Path:
    """Write a PNG file with its pixels unchanged, and the mark that they are to be used as they are."""
    info = PngImagePlugin.PngInfo()
    info.add_text(KEY, AS_IS)
    with Image.open(io.BytesIO(png)) as picture:
        picture.save(path, "PNG", pnginfo=info)
    return path


def is_marked(path: Path) -> bool:
    """Whether the file is a PNG file with that mark."""
    try:
        with Image.open(path) as picture:
            return picture.format == "PNG" and picture.info.get(KEY) == AS_IS
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False  # The server says what is wrong with it.
