"""A folder or an npz as a training set: read and preprocessed as the server does it."""

from collections.abc import Sequence

import numpy as np

from gradserve.dataset import Dataset

from ..api.images import model_input
from ..config import LimitSettings
from ..methods.influence.examples import digest, thumbnail
from ..methods.influence.index import Array
from ..models.card import ModelCard


class DatasetExamples:
    """Pictures of a folder or an npz; each is decoded when it is needed."""

    def __init__(self, dataset: Dataset, card: ModelCard) -> None:
        """Raises ValueError for labels that the model does not have."""
        self._dataset, self._card = dataset.labelled_for(card.classes), card
        self._limits = LimitSettings()
        self._labels = np.array([each.label for each in self._dataset], np.int64)

    def __len__(self) -> int:
        return len(self._labels)

    def images(self, rows: Sequence[int]) -> Array:
        """[n, H, W, 3] uint8, preprocessed by the model's default."""
        return np.stack([self._input(self._dataset[row].pixels()) for row in rows])

    def labels(self, rows: Sequence[int]) -> Array:
        """[n]."""
        return self._labels[list(rows)]

    def names(self, rows: Sequence[int]) -> list[str]:
        """File or row ids."""
        return [self._dataset[row].id for row in rows]

    def thumbnails(self, rows: Sequence[int]) -> list[bytes]:
        """PNG or JPEG files."""
        return [thumbnail(self._dataset[row].pixels()) for row in rows]

    def digest(self) -> str:
        """SHA-256 of names and labels."""
        return digest([each.id for each in self._dataset], self._labels)

    def _input(self, pixels: Array) -> Array:
        return model_input(pixels, self._card, self._limits)
