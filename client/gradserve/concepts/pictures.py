"""The pictures of a concept and its negatives: from a folder, or drawn by code."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gradserve import images, inputs, patterns
from gradserve.datasets import open_dataset
from gradserve.messages.fields import unknown

MAX_CONCEPT, MAX_NEGATIVES, MAX_CLASS_IMAGES = 128, 256, 128  # What a request may have.
BLOBS = "blobs"
DRAWN = tuple(patterns.PATTERNS)
TINTS = tuple(patterns.TINTS)
MAX_SIDE = 512  # Larger photos are sent smaller, since many go into one request.


def of_folder(path: Path, most: int, seed: int = 0) -> list[bytes]:
    """The pictures of a folder or an .npz file, at most so many, drawn by the seed; as files for a request."""
    return [sent(each.pixels()) for each in open_dataset(path).take(most, seed)]


def sent(pixels: images.Array) -> bytes:
    """A picture [H, W, 3] as the file that is sent: PNG, or of a large one a smaller JPEG."""
    picture = Image.fromarray(pixels)
    if max(picture.size) <= MAX_SIDE:
        return images.png(picture)
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def negatives(text: str, count: int, colours: str, seed: int) -> list[bytes]:
    """The negatives that are named: "blobs", or a folder."""
    if text == BLOBS:
        return list(map(images.png, patterns.blobs(count, seed + 1, colours=colours)))
    return of_folder(Path(text), MAX_NEGATIVES, seed)


def concept(text: str, others: Sequence[bytes], count: int, colours: str, orientation: str, seed: int) -> list[bytes]:
    """The pictures of a concept: a pattern that is drawn, the negatives in the shades of a colour, or a folder's."""
    if text in patterns.PATTERNS:
        drawn = patterns.PATTERNS[text](count, seed, colours=colours, orientation=orientation)
        return list(map(images.png, drawn))
    if text in patterns.TINTS:
        chosen = np.random.default_rng(seed).permutation(len(others))[: min(count, MAX_CONCEPT)]
        opened = [images.opened(inputs.message(others[i])) for i in sorted(chosen)]
        return [sent(np.asarray(each)) for each in patterns.tinted(opened, text)]
    if not Path(text).exists():
        raise unknown("concept or folder", text, [*DRAWN, *TINTS])
    return of_folder(Path(text), MAX_CONCEPT, seed)
