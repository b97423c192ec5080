"""What Concepts gives: the direction of a concept, and the classes that depend on it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradserve.arguments import Direction
from gradserve.results.common import Provenance, Result, save_arrays


@dataclass(frozen=True)
class ClassSensitivity:
    """How much a class depends on a concept.

    class_index: None for a rank. derivative: the mean derivative of its logit along the direction. z: by how many
    standard deviations it differs from those along random directions. rank: its place among all
    classes by the derivative, None where the others' are not known. verdict: "for", "against" or "insignificant".
    """

    class_index: int | None
    name: str
    derivative: float
    z: float
    rank: int | None
    verdict: str


@dataclass(frozen=True, eq=False, repr=False)
class ConceptDirection(Result):
    """The direction of a concept in a layer, and the classes by falling derivative: `[name]` or iterate.

    vector: [C] of unit length. accuracy: share of held-out pictures that the direction classes rightly, which is high
    for most directions. z_threshold: the |z| from which a class is significant. by_weights: whether the derivatives are
    weights of the last layer. name, expires: where the server keeps it.
    """

    layer: str
    vector: np.ndarray[Any, np.dtype[np.float32]]
    accuracy: float
    classes: tuple[ClassSensitivity, ...]
    z_threshold: float
    random_directions: int
    by_weights: bool
    name: str
    expires: str | None
    warnings: tuple[str, ...]
    provenance: Provenance

    @property
    def direction(self) -> Direction:
        """The direction as target of `explain`, `differentiate` and `maximize`."""
        return Direction(self.layer, self.vector)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the direction as .npy, or with `metadata` (JSON) as .npz. Raises ValueError for another ending."""
        path, ending = Path(path), Path(path).suffix.lower()
        if ending == ".npz":
            return save_arrays(path, self.to_dict(), direction=self.vector)
        if ending != ".npy":
            raise ValueError(f"{path}: a direction is saved as .npy or .npz")
        with path.open("wb") as file:
            np.save(file, self.vector, allow_pickle=False)
        return path

    def __getitem__(self, name: str) -> ClassSensitivity:
        row = next((each for each in self.classes if each.name == name), None)
        if row is None:
            raise KeyError(f"no class {name!r}")
        return row

    def __iter__(self) -> Iterator[ClassSensitivity]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def __repr__(self) -> str:
        best = ", ".join(f"{each.name} z {each.z:.1f}" for each in self.classes[:3])
        return f"<ConceptDirection in {self.layer}: {best}; {len(self)} classes, {self.provenance.model}>"


@dataclass(frozen=True)
class KeptDirection(Result):
    """A direction that the server keeps for the caller by name, until `expires`."""

    name: str
    model: str
    weights_digest: str
    layer: str
    channels: int
    expires: str
