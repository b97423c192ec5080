"""What Dense gives: the scores of classes at every position of a picture."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gradserve import images
from gradserve.colours import Colormap
from gradserve.results.common import Provenance, Region, Result, Score, npz_path, save_arrays
from gradserve.v1 import common_pb2

Numbers = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Grid:
    """Where the cells of a map lie: cell (y, x) looks at the surroundings of offset + stride * (y, x).

    That is in pixels of the picture in the size in which the model saw it, `height` by `width`.
    """

    stride: int
    offset: float
    height: int
    width: int

    def over(self, values: Numbers, width: int, height: int) -> Numbers:
        """The map [h, w] for each pixel of the picture in another size, [height, width], along straight lines."""
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new - self.offset) / self.stride
            for new, old in ((height, self.height), (width, self.width))
        )
        across = np.stack([np.interp(columns, np.arange(values.shape[1]), row) for row in values])
        down = [np.interp(rows, np.arange(values.shape[0]), column) for column in across.T]
        return np.stack(down, 1).astype(np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class DenseMap(Result):
    """The map of one class.

    score: of the whole picture. logits and probabilities: at each cell, [h, w], the latter among all classes. largest:
    probability of a cell, and `cell`, its row and column. png: the probabilities in colours, as the server drew them.
    """

    score: Score
    logits: Numbers
    probabilities: Numbers
    largest: float
    cell: tuple[int, int]
    grid: Grid
    png: bytes
    image: common_pb2.Image

    def original(self) -> Image.Image:
        """The picture that was sent, upright and in RGB."""
        return images.opened(self.image)

    def overlay(self, alpha: float = 0.5, *, colormap: Colormap | None = None) -> Image.Image:
        """The probabilities over the photo; the strongest colour is that of 1, whatever the largest of the map is."""
        photo = self.original()
        values = self.grid.over(self.probabilities, *photo.size)
        return images.overlay(photo, values, (0, 0, *photo.size), alpha=alpha, colormap=colormap, largest=1.0)

    def save(self, path: str | os.PathLike[str], *, colormap: Colormap | None = None) -> Path:
        """Save the overlay in the format of the path's ending."""
        self.overlay(colormap=colormap).save(path)
        return Path(path)

    def _repr_png_(self) -> bytes:
        return images.png(self.overlay())

    def __repr__(self) -> str:
        height, width = self.logits.shape
        at = f"{self.largest:.1%} at {self.cell}"
        return f"<DenseMap of {self.score.class_name}: {height} x {width} cells, at most {at}>"


@dataclass(frozen=True, eq=False, repr=False)
class DenseMaps(Result):
    """The maps of all targets, in their order. top: the best classes of the whole picture."""

    maps: tuple[DenseMap, ...]
    top: tuple[Score, ...]
    tiles: int
    region: Region
    provenance: Provenance

    def __iter__(self) -> Iterator[DenseMap]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, place: int) -> DenseMap:
        return self.maps[place]

    def sheet(self, columns: int = 0, *, colormap: Colormap | None = None) -> Image.Image:
        """All overlays on one sheet, each over its class."""
        names = [each.score.class_name for each in self.maps]
        return images.sheet([each.overlay(colormap=colormap) for each in self.maps], names, columns)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save `logits` and `probabilities` [n, h, w] and `metadata` (JSON) as .npz. Raises ValueError."""
        logits, probabilities = (np.stack([getattr(m, n) for m in self.maps]) for n in ("logits", "probabilities"))
        return save_arrays(npz_path(path), self.to_dict(), logits=logits, probabilities=probabilities)

    def _repr_png_(self) -> bytes:
        return images.png(self.sheet())

    def __repr__(self) -> str:
        tiles = f"{self.tiles} tile{'s' if self.tiles > 1 else ''}"
        return f"<DenseMaps: {', '.join(map(repr, self.maps))}; {tiles}, {self.provenance.model}>"
