"""Cutting out what units see, each part of a picture once."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from ...indexes.examples import thumbnail
from ...indexes.folder import Array
from ..boxes import boxes
from ..index import Reach


def number_patches(tables: Sequence[Array], field: Reach | None, size: tuple[int, int]) -> Array:
    """Numbers the different patches of some PATCH tables, into their `patch`, in the order of their pictures.

    Returns [n, 5]: the picture of each, and its box.
    """
    flat = np.concatenate([table.ravel() for table in tables])
    parts = np.column_stack([flat["picture"].astype(int), boxes(field, flat["y"], flat["x"], size)])
    unique, numbers = np.unique(parts, axis=0, return_inverse=True)
    numbers, start = numbers.ravel(), 0
    for table in tables:
        table["patch"] = numbers[start : start + table.size].reshape(table.shape)
        start += table.size
    return unique


class PatchFile:
    """The patches of a layer as they are written, in their order."""

    def __init__(self, folder: Path, number: int, parts: Array) -> None:
        """`parts` as from `number_patches`."""
        self.names = (f"patches-{number}.bin", f"patches-{number}.idx")
        self._data, self._begins = (self._open(folder / name) for name in self.names)
        self._parts, self._next = parts, 0
        self._begins.write(np.uint64(0).tobytes())

    @property
    def pictures(self) -> set[int]:
        """The numbers of the pictures that patches are cut from."""
        return set(np.unique(self._parts[:, 0]).tolist())

    def cut(self, picture: int, pixels: Array) -> None:
        """Writes all patches of a picture [H, W, 3]. Pictures must come in the order of their numbers."""
        while self._next < len(self._parts) and self._parts[self._next, 0] == picture:
            top, left, bottom, right = self._parts[self._next, 1:]
            self._data.write(thumbnail(np.ascontiguousarray(pixels[top:bottom, left:right])))
            self._begins.write(np.uint64(self._data.tell()).tobytes())
            self._next += 1

    def close(self) -> None:
        """Closes the files."""
        for file in (self._data, self._begins):
            file.close()

    def _open(self, path: Path) -> IO[bytes]:
        return path.open("wb")
