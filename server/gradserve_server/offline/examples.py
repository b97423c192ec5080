"""A folder or an npz as a training set: read and preprocessed as the server does it."""

from collections.abc import Sequence

import numpy as np

from gradserve.datasets import Dataset

from ..config import LimitSettings
from ..methods.indexes.examples import digest, thumbnail
from ..methods.indexes.folder import Array
from ..models.card import ModelCard
from ..models.preprocess import center_crop, size_of

MAX_CLASSES = 1_000_000  # The most classes that a data set may number.


class DatasetExamples:
    """Pictures of a folder or an npz; each is decoded when it is needed."""

    def __init__(self, dataset: Dataset, card: ModelCard) -> None:
        """`dataset` has its final labels already; the card says how pictures are preprocessed.

        Raises ValueError for a file whose name is not UTF-8, which no reply could tell.
        """
        odd = next((each.id for each in dataset if not _is_utf8(each.id)), None)
        if odd is not None:
            raise ValueError(f"{dataset.path}: the name of the file {odd!r} is not UTF-8; rename it")
        self._dataset, self._card, self._max_aspect = dataset, card, LimitSettings().max_aspect
        self._labels = np.array([-1 if each.label is None else each.label for each in dataset], np.int64)

    def __len__(self) -> int:
        return len(self._labels)

    def images(self, rows: Sequence[int]) -> Array:
        """[n, H, W, 3] uint8, preprocessed by the model's default."""
        pictures = [self._dataset[row].pixels() for row in rows]
        return np.stack([center_crop(each, size_of(each), self._card, self._max_aspect)[0] for each in pictures])

    def labels(self, rows: Sequence[int]) -> Array:
        """[n]; -1 where there is no label."""
        labels: Array = self._labels[list(rows)]
        return labels

    def names(self, rows: Sequence[int]) -> list[str]:
        """File or row ids."""
        return [self._dataset[row].id for row in rows]

    def thumbnails(self, rows: Sequence[int]) -> list[bytes]:
        """PNG or JPEG files."""
        return [thumbnail(self._dataset[row].pixels()) for row in rows]

    def digest(self) -> str:
        """SHA-256 of names and labels."""
        return digest([each.id for each in self._dataset], self._labels)


def _is_utf8(name: str) -> bool:
    """Whether a name can be written as UTF-8; what Python makes of other bytes in names of files cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def named_classes(dataset: Dataset) -> tuple[str, ...]:
    """The names of a data set's own classes, and the numbers of those without a name.

    Raises ValueError where it has no labels, or labels that cannot be numbers of classes.
    """
    if not dataset.labelled:
        raise ValueError(f"{dataset.path} has no labels: put pictures into folders named by class, or use an npz")
    count = 1 + max(each.label or 0 for each in dataset)
    if count > MAX_CLASSES:
        raise ValueError(f"{dataset.path}: labels number classes from 0, at most {MAX_CLASSES:,}; there is {count - 1}")
    names = dataset.classes
    return tuple((names[i] if i < len(names) else "") or str(i) for i in range(max(count, len(names))))
