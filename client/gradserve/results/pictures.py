"""Pictures that were made, and the progress of those that are being made."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from gradserve import images
from gradserve.parameters.method import ParameterValue
from gradserve.results.common import Provenance, Result, Score

Curve = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, repr=False)
class Progress(Result):
    """How far a call has come: steps, the weighted parts of what is optimised, and small pictures (JPEG)."""

    step: int
    steps: int
    losses: Mapping[str, float]
    previews: tuple[bytes, ...] = ()

    def pictures(self) -> list[Image.Image]:
        """The previews, opened."""
        return [images.from_file(each) for each in self.previews]

    def __repr__(self) -> str:
        losses = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        return f"<Progress {self.step} of {self.steps}: {losses}>"


@dataclass(frozen=True, eq=False, repr=False)
class MaximizedImage(Result):
    """The picture of one goal.

    png: the bytes of the file. value, top: the goal's value and the most probable classes, at most 5, of exactly these
    8-bit pixels; where time was up before (warning NOT_MEASURED), the value of the last step, and no classes. curves:
    the value and each penalty at every step, by name. snapshots: files by step. asked, done: steps of all octaves.
    """

    name: str
    png: bytes
    value: float
    top: tuple[Score, ...]
    curves: Mapping[str, Curve]
    snapshots: Mapping[int, bytes]
    settings: Mapping[str, ParameterValue]
    preset: str
    asked: int
    done: int
    warnings: tuple[str, ...]
    provenance: Provenance
    stretched: bytes | None = None

    @property
    def completed_fraction(self) -> float:
        """Steps done / asked."""
        return self.done / self.asked

    @property
    def image(self) -> Image.Image:
        """The picture."""
        return images.from_file(self.png)

    @property
    def display(self) -> Image.Image:
        """The picture for people to look at: 0.5 + 0.1 * its standardised values where the settings say `stretch`."""
        return images.from_file(self.stretched or self.png)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the picture in the format of the path's ending."""
        return save(self.png, path)

    def _repr_png_(self) -> bytes:
        return self.stretched or self.png

    def __repr__(self) -> str:
        width, height = self.image.size
        best = f", {self.top[0].class_name} {self.top[0].probability:.1%}" if self.top else ""
        return (
            f"<MaximizedImage {self.name} = {self.value:.4g}{best}: {width} x {height}, {self.preset}, "
            f"{self.done} steps, {self.provenance.model}>"
        )


class MaximizedImages(Sequence[MaximizedImage]):
    """The pictures of several goals, in their order."""

    def __init__(self, made: Sequence[MaximizedImage]) -> None:
        self._all = tuple(made)

    @overload
    def __getitem__(self, key: int) -> MaximizedImage: ...
    @overload
    def __getitem__(self, key: slice) -> "MaximizedImages": ...
    def __getitem__(self, key: int | slice) -> "MaximizedImage | MaximizedImages":
        return MaximizedImages(self._all[key]) if isinstance(key, slice) else self._all[key]

    def __len__(self) -> int:
        return len(self._all)

    def to_dict(self) -> dict[str, Any]:
        """The pictures as JSON takes them: a list `images`."""
        return {"images": [each.to_dict() for each in self._all]}

    def sheet(self, columns: int = 0) -> Image.Image:
        """All pictures on one sheet, each over the name of its goal."""
        return images.sheet([each.display for each in self._all], [each.name for each in self._all], columns)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the sheet in the format of the path's ending."""
        self.sheet().save(path)
        return Path(path)

    def _repr_png_(self) -> bytes:
        return images.png(self.sheet())

    def __repr__(self) -> str:
        return "[" + ",\n ".join(map(repr, self._all)) + "]"


@dataclass(frozen=True, eq=False, repr=False)
class StylizedImage(Result):
    """A stylized picture.

    png: the bytes of the file. losses: style, content and total_variation of exactly these 8-bit pixels, without their
    weights, unless time was up before (warning NOT_MEASURED); initial_losses: the same of the picture at the start.
    curves: the losses with their weights at every step. snapshots: files by step. style_layers, content_layers: the
    weights by layer. asked, done: steps.
    """

    png: bytes
    losses: Mapping[str, float]
    initial_losses: Mapping[str, float]
    curves: Mapping[str, Curve]
    snapshots: Mapping[int, bytes]
    style_layers: Mapping[str, float]
    content_layers: Mapping[str, float]
    settings: Mapping[str, ParameterValue]
    asked: int
    done: int
    warnings: tuple[str, ...]
    provenance: Provenance

    @property
    def completed_fraction(self) -> float:
        """Steps done / asked."""
        return self.done / self.asked

    @property
    def image(self) -> Image.Image:
        """The picture."""
        return images.from_file(self.png)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the picture in the format of the path's ending."""
        return save(self.png, path)

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        width, height = self.image.size
        losses = ", ".join(
            f"{name} {self.initial_losses[name]:.3g} -> {value:.3g}" for name, value in self.losses.items()
        )
        return f"<StylizedImage {width} x {height}: {losses}, {self.done} steps, {self.provenance.model}>"


def save(png: bytes, path: str | os.PathLike[str]) -> Path:
    """Write a PNG file as it is, or converted to what the path's ending says."""
    path = Path(path)
    if path.suffix.lower() == ".png":
        path.write_bytes(png)
    else:
        images.from_file(png).save(path, quality=95)
    return path
