"""The mark in a PNG file that its pixels are a model's input already, and the command that judges such a file."""

import io
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, PngImagePlugin

from gradserve.address import DEFAULT_ADDRESS
from gradserve.cli.options import Connection

KEY, AS_IS = "gradserve:preprocess", "as_is"  # Keyword and value of a text chunk.
_MAX_PICTURES = 8  # Pictures that a printed command names.


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


def judge(pictures: Sequence[Path], model: str, connection: Connection) -> str:
    """The command that predicts pictures as a certificate does: as they are and in fp32; of many, the first."""
    words = ["gradserve", "predict", *map(str, pictures if len(pictures) <= _MAX_PICTURES else pictures[:1])]
    words += ["--model", model, "--preprocess", AS_IS, "--precision", "exact"]
    if connection.server != DEFAULT_ADDRESS:
        words += ["--server", connection.server]
    words += ["--ca", str(connection.ca)] if connection.ca else ["--tls"] if connection.tls else []
    secret = "" if connection.token in (None, os.environ.get("GRADSERVE_TOKEN")) else ' --token "$GRADSERVE_TOKEN"'
    return shlex.join(words) + secret
