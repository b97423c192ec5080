"""Training sets as a model sees them, and small pictures of their examples."""

import hashlib
import io
from collections.abc import Sequence

from PIL import Image

from .folder import Array

THUMBNAIL_SIDE = 96  # Pixels of the longer side.
MAX_PNG_SIDE = 16  # Thumbnails up to this side are PNG, larger ones JPEG.


class ArrayExamples:
    """Pictures that are in memory already, of the model's own size: [N, H, W, 3] uint8, [N]."""

    def __init__(self, pixels: Array, labels: Array) -> None:
        self._pixels, self._labels = pixels, labels

    def __len__(self) -> int:
        return len(self._labels)

    def images(self, rows: Sequence[int]) -> Array:
        """[n, H, W, 3]."""
        return self._pixels[list(rows)]

    def labels(self, rows: Sequence[int]) -> Array:
        """[n]."""
        return self._labels[list(rows)]

    def names(self, rows: Sequence[int]) -> list[str]:
        """Row numbers."""
        return [str(row) for row in rows]

    def thumbnails(self, rows: Sequence[int]) -> list[bytes]:
        """PNG files."""
        return [thumbnail(self._pixels[row]) for row in rows]

    def digest(self) -> str:
        """SHA-256 of names and labels."""
        return digest(self.names(range(len(self))), self._labels)


def thumbnail(pixels: Array) -> bytes:
    """A picture of at most THUMBNAIL_SIDE pixels: PNG for tiny ones, JPEG for others."""
    picture, file = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    if max(picture.size) <= MAX_PNG_SIDE:
        grey = bool((pixels == pixels[..., :1]).all())
        picture.convert("L" if grey else "RGB").save(file, "PNG", optimize=True)
    else:
        picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def digest(names: Sequence[str], labels: Array) -> str:
    """SHA-256 of names and labels, by which two indexes know that they are of the same examples."""
    return hashlib.sha256("\0".join([*names, *map(str, labels.tolist())]).encode()).hexdigest()
