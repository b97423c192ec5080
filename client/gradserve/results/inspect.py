"""What Inspect gives: weights, activation maps, a table of layers, receptive fields."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gradserve import images
from gradserve.results import pictures
from gradserve.results.common import Provenance, Region, Result, save_arrays

Numbers = np.ndarray[Any, np.dtype[np.float32]]
BYTES = 4  # The size of a number in EXACT, which is float32.


class _Sheet(Result):
    """A view with a picture of many small ones, and perhaps the numbers."""

    png: bytes
    values: Numbers | None

    @property
    def image(self) -> Image.Image:
        """The picture."""
        return images.from_file(self.png)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the picture, or, if the path ends in .npz, `values` and `metadata` (JSON). Raises ValueError."""
        if Path(path).suffix.lower() != ".npz":
            return pictures.save(self.png, path)
        if self.values is None:
            raise ValueError(f"{path}: there are no numbers; ask for them by values=True")
        return save_arrays(path, self.to_dict(), values=self.values)

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True, eq=False, repr=False)
class Weights(_Sheet):
    """The weights of a layer, as in the model's file.

    look: "colour" (filters in the three colours of the image), "maps" (a row for each output channel, with its input
    channels) or "row" (a line for each). shape: of all weights, output channels first. channels: those that are shown;
    norms: of their weights; inputs: for each its input channels that are shown. folded: the BatchNorm that the server
    computes as a part of the convolution, which these weights are without. values: [channels, ...], if asked for.
    """

    layer: str
    look: str
    shape: tuple[int, ...]
    channels: tuple[int, ...]
    norms: tuple[float, ...]
    inputs: tuple[tuple[int, ...], ...]
    folded: str
    png: bytes
    values: Numbers | None
    provenance: Provenance

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        return f"<Weights of {self.layer}: {len(self.channels)} of {shape} as {self.look}, {self.provenance.model}>"


@dataclass(frozen=True, eq=False, repr=False)
class Activations(_Sheet):
    """The activation maps of a picture at a layer.

    total: how many channels the layer has. channels: those that are shown; means and maxima: of their maps. values:
    [channels, h, w], if asked for. region: what the model saw of the picture.
    """

    layer: str
    total: int
    channels: tuple[int, ...]
    means: tuple[float, ...]
    maxima: tuple[float, ...]
    png: bytes
    values: Numbers | None
    region: Region
    provenance: Provenance

    def __repr__(self) -> str:
        return f"<Activations of {self.layer}: {len(self.channels)} of {self.total} channels, {self.provenance.model}>"


@dataclass(frozen=True)
class LayerRow:
    """A layer of the table; see inspect.proto. What it does on pictures is None without pictures."""

    name: str
    kind: str
    shape: tuple[int, ...]
    values: int
    counted: bool
    parameters: int
    multiply_adds: int
    folded: str = ""
    dead_share: float | None = None
    mean: float | None = None
    std: float | None = None
    gradient_norm: float | None = None

    @property
    def bytes(self) -> int:
        """The memory of its output for one picture, in EXACT."""
        return BYTES * self.values


@dataclass(frozen=True, eq=False, repr=False)
class LayerTable(Result):
    """The layers of a network in the order in which they run: `[i]` by place, `["layer1.0"]` by name.

    parameters, multiply_adds: of the whole network. values: numbers of a picture and of the outputs of all rows that
    are `counted`: convolutions, pools and linear layers. pictures: how many the statistics are over; loss: its mean.
    """

    layers: tuple[LayerRow, ...]
    parameters: int
    multiply_adds: int
    values: int
    pictures: int
    loss: float | None
    provenance: Provenance

    @property
    def bytes(self) -> int:
        """The memory of `values`, in EXACT."""
        return BYTES * self.values

    def __getitem__(self, key: int | str) -> LayerRow:
        if isinstance(key, int):
            return self.layers[key]
        row = next((each for each in self.layers if each.name == key), None)
        if row is None:
            raise KeyError(f"no layer {key!r}")
        return row

    def __iter__(self) -> Iterator[LayerRow]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        sums = f"{self.parameters:,} parameters, {self.multiply_adds:,} multiply-adds, {self.values:,} values"
        return f"<LayerTable of {len(self)} layers: {sums}, {self.provenance.model}>"


@dataclass(frozen=True, repr=False)
class ReceptiveField(Result):
    """The part of the picture that a unit in the middle of a layer depends on, in pixels.

    at_least: it may be larger, since it touches the border of the largest picture that was tried, or since float32 may
    have lost the small gradients at its edge. whole_picture: it was all of every picture.
    stride, offset: of rows and of columns; the field of unit (y, x) begins at offset + stride * (y, x); None where that
    could not be measured. effective_size: the side of the square that holds 90 % of the mean absolute gradient.
    picture: the size that it was measured on, height and width. unit: which one was measured.
    """

    layer: str
    height: int
    width: int
    at_least: bool
    whole_picture: bool
    stride: tuple[int | None, int | None]
    offset: tuple[int | None, int | None]
    effective_size: float
    picture: tuple[int, int]
    unit: tuple[int, int]
    provenance: Provenance

    def __repr__(self) -> str:
        least = "at least " if self.at_least else ""
        whole = ", the whole picture" if self.whole_picture else ""
        size = f"{least}{self.height} x {self.width}{whole}, effectively {self.effective_size:.1f}"
        return f"<ReceptiveField of {self.layer}: {size}, {self.provenance.model}>"
