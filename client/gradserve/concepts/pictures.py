"""The pictures of a concept and its negatives: from a folder, or drawn by code."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gradserve import images, patterns
from gradserve.datasets import open_dataset
from gradserve.messages import inputs
from gradserve.messages.fields import unknown

MAX_CONCEPT, MAX_NEGATIVES, MAX_CLASS_IMAGES = 128, 256, 128  # What a request may have.
BLOBS = "blobs"
DRAWN = tuple(patterns.PATTERNS)
TINTS = tuple(patterns.TINTS)
# Many photos go into one request, which may have 32 MiB and 64 million pixels, so that larger ones are sent smaller.
MAX_SIDE, MAX_PNG_BYTES = 384, 64 << 10


def of_folder(path: Path, most: int, seed: int = 0) -> list[bytes]:
    """The pictures of a folder or an .npz file, at most so many, drawn by the seed; as files for a request."""
    return [sent(each.pixels()) for each in open_dataset(path).take(most, seed)]


def sent(pixels: images.Array) -> bytes:
    """A picture [H, W, 3] as the file that is sent: PNG where that is small, or else a JPEG of at most 384 pixels."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    if len(data := images.png(picture)) <= MAX_PNG_BYTES:
        return data
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def negatives(text: str, count: int, colours: str, seed: int) -> list[bytes]:
    """The negatives that are named: "blobs", or a folder."""
    if text == BLOBS:
        return list(map(images.png, patterns.blobs(count, seed + 1, colours=colours)))
    return of_folder(Path(text), MAX_NEGATIVES, seed)


def tinted(text: str, photos: Sequence[bytes], seed: int) -> tuple[list[bytes], list[bytes]]:
    """Half of the photos in the shades of a colour, and the other half as they are."""
    order = np.random.default_rng(seed).permutation(len(photos))
    half = min(len(photos) // 2, MAX_CONCEPT)
    opened = [images.opened(inputs.message(photos[i])) for i in order[:half]]
    drawn = [sent(np.asarray(each)) for each in patterns.tinted(opened, text)]
    return drawn, [photos[i] for i in order[half:]]


def chosen(
    text: str, others: str, count: int, colours: str, orientation: str, seed: int
) -> tuple[list[bytes], list[bytes]]:
    """The pictures of a concept, which is drawn, a colour or a folder, and the negatives."""
    known = text in patterns.PATTERNS or text in patterns.TINTS
    if not known and not Path(text).exists():
        raise unknown("concept or folder", text, [*DRAWN, *TINTS])
    if text not in patterns.PATTERNS and orientation != "any":
        raise ValueError(f"--orientation is for {', '.join(DRAWN)}, which are drawn, and not for {text}; leave it out")
    kept = negatives(others, count, colours, seed)
    if text in patterns.PATTERNS:
        drawn = patterns.PATTERNS[text](count, seed, colours=colours, orientation=orientation)
        return list(map(images.png, drawn)), kept
    return tinted(text, kept, seed) if known else (of_folder(Path(text), MAX_CONCEPT, seed), kept)
