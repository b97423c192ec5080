"""An index of pictures: what those of a data set do in each layer of a model, in a folder, memory-mapped.

manifest.json              what it is of, and the size and SHA-256 of every other file
labels.bin                 [N] int32, the class of each picture; -1 where it has none
names.bin  names.idx       the pictures' file or row ids; where each begins
thumbs.bin  thumbs.idx     small copies of them, PNG or JPEG
features-<i>.bin           [N, C] float32, the mean over the positions of layer i; of a vector the vector itself
exemplars-<i>.bin          [C, k] PATCH, the k pictures whose largest value at any position is largest, strongest first
spectrum-<i>.bin           [C, q] PATCH, the pictures at even distances in that order, from the first to the last
patches-<i>.bin  .idx      what the units of both see of these pictures, PNG or JPEG
pca-<i>.safetensors        the principal components of the features of layer i, and where the pictures lie
tsne-<i>.safetensors       where they lie in a t-SNE of layer i; of the layers that it was asked for
"""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from ...models.card import ModelCard
from ..indexes.folder import Array, FolderManifest, HeldIndexes, IndexFolder
from .pca import Pca, read_pca
from .tsne import Tsne, read_tsne

VERSION = 1
MAX_TOP = 100  # The most patches of a channel.
PATCH = np.dtype(
    [
        ("value", "<f4"),  # The largest value of the channel on the picture.
        ("picture", "<u4"),  # The picture's number.
        ("y", "<u2"),  # Where that value is; the first such place in reading order.
        ("x", "<u2"),
        ("patch", "<u4"),  # The number of what the unit there sees, among the layer's patches.
    ]
)


class Reach(BaseModel):
    """The receptive field of a layer's units: that of unit (y, x) begins at offset + stride * (y, x), in pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    height: int
    width: int
    stride_y: int
    stride_x: int
    offset_y: int
    offset_x: int


class PictureLayer(BaseModel):
    """An indexed layer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    channels: int
    height: int  # Positions; 0 for a vector.
    width: int
    field: Reach | None  # None where a unit is taken to see the whole picture.
    accuracy: float | None = None  # Of the nearest neighbours; None where there are no two classes.
    shuffled_accuracy: float | None = None  # The same with the labels shuffled.
    tsne: bool = False  # Whether the index has a t-SNE of it.


class PictureManifest(FolderManifest):
    """What an index of pictures is of, and how it was made."""

    kind: Literal["pictures"] = "pictures"
    classes: tuple[str, ...] | None  # The names of the labels; None where there are none.
    layers: tuple[PictureLayer, ...]
    height: int  # Of the model's input, in whose pixels the receptive fields are.
    width: int
    top: int  # The k of `exemplars`.
    spectrum: int  # The q of `spectrum`.
    separability_pictures: int = 0  # Over how many pictures the accuracies are; 0 where there are none.


class PictureIndex(IndexFolder[PictureManifest]):
    """An index of pictures that is open for reading. Layers are given by their numbers, see `number`."""

    def __init__(self, path: Path) -> None:
        """Raises IndexFault for one that is missing, of another version, or whose files have other sizes."""
        super().__init__(path, PictureManifest, VERSION)
        self._pca: dict[int, Pca] = {}
        self._tsne: dict[int, Tsne] = {}

    def map_all(self) -> None:
        """Maps every file that is read later."""
        super().map_all()
        self._arrays  # noqa: B018
        for i, layer in enumerate(self.manifest.layers):
            self.pca(i)
            if layer.tsne:
                self.tsne(i)

    def number(self, layer: str) -> int | None:
        """The number of the layer of that name; None where it is not indexed."""
        return next((i for i, each in enumerate(self.manifest.layers) if each.name == layer), None)

    @property
    def labels(self) -> Array:
        """[N], the class of each picture, or -1."""
        return self._arrays["labels"]

    def features(self, i: int) -> Array:
        """[N, C], the mean over the positions of layer i."""
        return self._arrays[f"features-{i}"]

    def exemplars(self, i: int) -> Array:
        """[C, k] PATCH, of each channel of layer i those that excite it most, strongest first."""
        return self._arrays[f"exemplars-{i}"]

    def spectrum(self, i: int) -> Array:
        """[C, q] PATCH, of each channel of layer i some from the strongest to the weakest."""
        return self._arrays[f"spectrum-{i}"]

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where it has none."""
        classes = self.manifest.classes or ()
        return classes[label] if label < len(classes) else str(label)

    def patch(self, i: int, number: int) -> bytes:
        """What a unit of layer i sees of a picture, PNG or JPEG."""
        return self.record(f"patches-{i}", number)

    def pca(self, i: int) -> Pca:
        """The principal components of layer i."""
        if i not in self._pca:
            self._pca[i] = read_pca(self.path / pca_file(i))
        return self._pca[i]

    def tsne(self, i: int) -> Tsne:
        """The t-SNE of layer i, which must have one."""
        if i not in self._tsne:
            self._tsne[i] = read_tsne(self.path / tsne_file(i))
        return self._tsne[i]

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        manifest, count = self.manifest, len(self)
        arrays = {"labels": self.map_file("labels.bin", np.dtype("<i4"), (count,))}
        for i, layer in enumerate(manifest.layers):
            shapes = {"exemplars": (layer.channels, manifest.top), "spectrum": (layer.channels, manifest.spectrum)}
            arrays |= {f"{name}-{i}": self.map_file(f"{name}-{i}.bin", PATCH, at) for name, at in shapes.items()}
            features = f"features-{i}"
            arrays[features] = self.map_file(f"{features}.bin", np.dtype("<f4"), (count, layer.channels))
        return arrays


def pca_file(i: int) -> str:
    """The name of the file of layer i's principal components."""
    return f"pca-{i}.safetensors"


def tsne_file(i: int) -> str:
    """The name of the file of layer i's t-SNE."""
    return f"tsne-{i}.safetensors"


_held = HeldIndexes(PictureIndex, "an index of pictures")
opened = _held.opened


def hold_those_of(cards: Iterable[ModelCard]) -> None:
    """Opens the indexes of pictures of these models, and lets go of all others."""
    _held.keep({(card.pictures, card.pictures_digest) for card in cards if card.pictures})
