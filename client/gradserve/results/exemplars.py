"""What Exemplars gives: the pictures of a data set that excite the units of a layer most."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gradserve import images
from gradserve.results.common import Provenance, Result, npz_path, save_arrays


@dataclass(frozen=True)
class ExemplarPatch(Result):
    """The part of a picture that excites a unit most, of all its places on that picture.

    row: of the picture in the index. label: the picture's class in the data set; None where it has none. place: y and
    x of the unit in the layer's map; None for a vector. left, top, width, height: what the unit sees, in pixels of the
    model's input. `picture` is that part as a file, at most 96 pixels large.
    """

    value: float
    row: int
    name: str
    label: int | None
    label_name: str
    place: tuple[int, int] | None
    left: int
    top: int
    width: int
    height: int
    picture: bytes = field(repr=False)

    @property
    def image(self) -> Image.Image:
        """The part of the picture."""
        return images.from_file(self.picture)


@dataclass(frozen=True)
class ChannelExemplars(Result):
    """What excites a channel: `exemplars`, strongest first; `spectrum`, from the strongest picture to the weakest.

    purity: the share of the commonest class among the exemplars; None where one has no label.
    """

    channel: int
    purity: float | None
    exemplars: tuple[ExemplarPatch, ...]
    spectrum: tuple[ExemplarPatch, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Exemplars(Result):
    """The channels that were asked for, each with its patches; `[3]` is that of number 3.

    pictures: how many the index has, N. layers: those that are indexed. size: height and width of the model's input.
    values: [channels, N], the mean of each channel on every picture, if it was asked for.
    """

    layer: str
    channels: tuple[ChannelExemplars, ...]
    pictures: int
    layers: tuple[str, ...]
    size: tuple[int, int]
    values: np.ndarray[Any, np.dtype[np.float32]] | None
    provenance: Provenance

    def __getitem__(self, channel: int) -> ChannelExemplars:
        row = next((each for each in self.channels if each.channel == channel), None)
        if row is None:
            raise KeyError(f"no channel {channel}; asked for were {', '.join(str(c.channel) for c in self.channels)}")
        return row

    def __iter__(self) -> Iterator[ChannelExemplars]:
        return iter(self.channels)

    def __len__(self) -> int:
        return len(self.channels)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save `values` and `metadata` (JSON) as a .npz file. Raises ValueError where there are no values."""
        if self.values is None:
            raise ValueError(f"{path}: there are no numbers; ask for them by values=True")
        return save_arrays(npz_path(path), self.to_dict(), values=self.values)

    def __repr__(self) -> str:
        numbers = ", ".join(str(each.channel) for each in self.channels)
        return f"<Exemplars of {self.layer}, channels {numbers}: {self.pictures} pictures, {self.provenance.model}>"
