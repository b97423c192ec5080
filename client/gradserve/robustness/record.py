"""The record of a run: its pictures, what it asked about them and what was answered, as results.json keeps them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from gradserve.arguments import ImageLike
from gradserve.datasets import Dataset, Example
from gradserve.robustness.journal import Outcome
from gradserve.robustness.plan import CLEAN, Plan, Trial


@dataclass(frozen=True)
class Picture:
    """A picture of a run. `digest` is that of the file's bytes or of the pixels, "" where there is no such file."""

    id: str
    label: int
    class_name: str
    digest: str
    group: str | None = None  # Its value in the column that groups the pictures, if one does.


@dataclass(frozen=True)
class Shard:
    """Every `of`-th picture of a set, beginning with picture `number`, which counts from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class Whole:
    """The set that a run or its shards are about: how many pictures, and a digest of their ids and labels."""

    pictures: int
    digest: str

    @classmethod
    def of(cls, pictures: Iterable["Picture | Example"]) -> Self:
        """That of these pictures, in their order."""
        named = [(each.id, each.label) for each in pictures]
        return cls(len(named), hashlib.blake2b(json.dumps(named).encode(), digest_size=16).hexdigest())


@dataclass(frozen=True)
class Record:
    """What a run measured."""

    plan: Plan
    pictures: Sequence[Picture]
    outcomes: Sequence[Outcome] = ()
    column: str = ""  # The column of labels.csv that groups the pictures.
    shard: Shard | None = None
    of_shard: Whole | None = None  # The set that it is a shard of.

    @property
    def whole(self) -> Whole:
        """All pictures of the run, those of the other shards too."""
        return self.of_shard or Whole.of(self.pictures)

    def answered(self, answers: Iterable[Outcome]) -> "Record":
        """With what a journal knows of these pictures and trials; it may know more."""
        pictures = {picture.id for picture in self.pictures}
        trials = self.trial_names()
        outcomes = [each for each in answers if each.id in pictures and each.trial in trials]
        return replace(self, outcomes=outcomes)

    @cached_property
    def by_trial(self) -> Mapping[str, Mapping[str, Outcome]]:
        """The outcomes by the key of their trial and by picture."""
        found: dict[str, dict[str, Outcome]] = {}
        for each in self.outcomes:
            found.setdefault(each.trial, {})[each.id] = each
        return found

    def trial_names(self) -> dict[str, str]:
        """The name of each trial in results.json by its key."""
        return {CLEAN: CLEAN, **{trial.key: trial_name(trial, self.plan.model) for trial in self.plan.trials}}


def trial_name(trial: Trial, model: str) -> str:
    """Such as "pgd 4/255", or "fog 3 on resnet18" where that is not the model that is checked."""
    return str(trial) if trial.model == model else f"{trial} on {trial.model}"


def described(dataset: Dataset, column: str = "") -> list[Picture]:
    """The pictures of a set, each once, with the digests of their content and their values in that column."""
    return [_picture(example, column) for example in {example.id: example for example in dataset}.values()]


def _picture(example: Example, column: str) -> Picture:
    group = example.columns[column] if column else None
    return Picture(example.id, example.label or 0, example.class_name, _digest(example.image), group)


def _digest(image: ImageLike) -> str:
    """A digest of a file's bytes, or of an array's shape and values."""
    if isinstance(image, (str, Path)):
        try:
            data = Path(image).read_bytes()
        except OSError:
            return ""
    elif isinstance(image, bytes):
        data = image
    else:
        pixels = np.asarray(image)
        data = json.dumps([str(pixels.dtype), *pixels.shape]).encode() + pixels.tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()
