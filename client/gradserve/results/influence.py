"""What Influence, Suspects and Embed give: training examples, and features."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gradserve import images
from gradserve.parameters.method import ParameterValue
from gradserve.results.common import Provenance, Region, Result, npz_path, save_arrays


@dataclass(frozen=True)
class Reweighting:
    """What if the weights of these training examples changed together, in units of 1 / N? -1 removes them."""

    rows: Sequence[int]
    weight: float = -1.0


@dataclass(frozen=True)
class TrainingExample(Result):
    """A training example with what an answer says of it.

    change: predicted change of the goal when it is removed; newton_change: the same by a Newton step. similarity:
    cosine of the features (neighbours only). self_influence: influence on its own loss, large for odd and mislabelled
    ones. parameter_change: how far the parameters move when it is removed. disagreement: share of its nearest examples
    that have another label. suspicion: mean of its ranks by self_influence and disagreement, 0 to 1.
    """

    row: int
    name: str
    label: int
    label_name: str
    predicted: int
    predicted_name: str
    change: float
    newton_change: float | None
    similarity: float | None
    loss: float
    self_influence: float
    parameter_change: float
    disagreement: float
    suspicion: float
    thumbnail: bytes = field(default=b"", repr=False)

    def picture(self) -> Image.Image | None:
        """The small picture, or None where none came."""
        return images.from_file(self.thumbnail) if self.thumbnail else None


@dataclass(frozen=True)
class Influence(Result):
    """The training examples behind a prediction: without helpful ones it would be worse, without harmful ones better.

    what_if: predicted changes of the goal, in the order of the questions. probability: that of the label by which the
    prediction was judged. value: that of the goal. noise_floor: changes closer to zero than this may be none. coverage:
    the share of the model's parameters that influence passes through.
    """

    helpful: tuple[TrainingExample, ...]
    harmful: tuple[TrainingExample, ...]
    what_if: tuple[float, ...]
    label: int
    label_name: str
    probability: float
    goal: str
    value: float
    method: str
    parameters: Mapping[str, ParameterValue]
    examples: int
    noise_floor: float
    coverage: float
    region: Region
    provenance: Provenance

    def __str__(self) -> str:
        lines = [f"{self.goal} of {self.label_name}: {self.value:.4g} ({self.method}, {self.examples} examples)"]
        for title, examples in (("helpful", self.helpful), ("harmful", self.harmful)):
            lines += [f"{title:8s} {_score(each):+.3e}  {each.label_name}  {each.name}" for each in examples]
        return "\n".join(lines)


@dataclass(frozen=True)
class Suspects(Result, Sequence[TrainingExample]):
    """Training examples, the most suspicious labels first; `total` is how many there are in the index."""

    examples: tuple[TrainingExample, ...]
    total: int
    provenance: Provenance

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[TrainingExample]:
        return iter(self.examples)

    def __getitem__(self, place: Any) -> Any:
        return self.examples[place]


@dataclass(frozen=True, eq=False)
class Features(Result):
    """Features of a picture, float32: [C], or the whole map [C, h, w]. `is_input`: what goes into the layer."""

    values: np.ndarray[Any, np.dtype[np.float32]]
    layer: str
    is_input: bool
    region: Region
    provenance: Provenance

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save `values` and `metadata` (JSON) as a .npz file."""
        return save_arrays(npz_path(path), self.to_dict(), values=self.values)


def _score(example: TrainingExample) -> float:
    return example.change if example.similarity is None else example.similarity
