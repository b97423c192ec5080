"""Makes pictures with the shape of one class and the texture of another, and counts by which of them networks decide.

After Geirhos et al. 2019, with Stylize in place of their choice of pictures. The share of decisions by shape is a
property of the recipe as much as of the network: networks are compared on the same files, over several weights of the
content.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from PIL import Image

from gradserve import images
from gradserve.client import Client
from gradserve.folders.claims import replace_file
from gradserve.images import Array
from gradserve.results.models import ModelCard
from gradserve.results.predict import Prediction
from gradserve.shape.sources import Source, Sources
from gradserve.styled.pictures import StyledFolder, StyledReport, Wanted

RECIPE = 1  # The version of the recipe. Shares by another version are not comparable.
LIST = "pictures.csv"
_MAX_PREDICT_CLASSES = 1000  # The most classes that one answer of Predict lists.


@dataclass(frozen=True)
class Recipe:
    """How the pictures are made: their side in pixels, steps, weights of the content, and the seed."""

    size: int = 224
    steps: int = 60
    weights: tuple[float, ...] = (0.05, 0.15, 0.5)
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(map(isfinite, self.weights)):
            raise ValueError("a content weight must be a finite number")
        if len({_folder(weight) for weight in self.weights}) < len(self.weights):
            raise ValueError("content weights must differ in their first six digits, which name their folders")


def _folder(weight: float) -> str:
    """The name of the folder of a weight's pictures."""
    return f"{weight:g}"


@dataclass(frozen=True)
class Conflict:
    """One picture: its file, the weight of its content, and where its shape and its texture come from."""

    file: str
    weight: float
    shape: Source
    texture: Source


@dataclass(frozen=True)
class Decision:
    """The names of the classes that a network gives a picture: the best of all, and the best of the set (or "")."""

    best: str
    best_of_set: str


@dataclass(frozen=True)
class Judge:
    """A network that decides, and the indices that the set's classes have in it, by name."""

    card: ModelCard
    numbers: Mapping[str, int]


@dataclass
class Judged:
    """The decisions of a network: on the pictures by their files, and on the squares that they were made from."""

    judge: Judge
    decisions: dict[str, Decision] = field(default_factory=dict)
    known_shapes: int = 0  # How many contents are classed rightly, as they are, among the set's classes.
    known_textures: int = 0


class ShapeRun:
    """The pictures of a set, and the networks that judge them."""

    def __init__(
        self, client: Client, contents: Sources, textures: Sources, styler: str, judges: Sequence[str], recipe: Recipe
    ) -> None:
        """Raises ValueError for a judge that stylises, for classes that a judge lacks, and where nothing conflicts."""
        self._client, self.recipe = client, recipe
        self.styler = client.model(styler)
        cards = [client.model(name) for name in dict.fromkeys(judges)]
        for card in cards:
            _check_impartial(card, self.styler)
        self.contents, self.textures = _squares(contents, textures, cards[0], recipe.size)
        self.conflicts = list(_conflicts(self.contents, self.textures, recipe.weights))
        if not self.conflicts:
            raise ValueError("every texture is of the class of every content; give pictures of several classes")
        self.judges = [_judge(card, contents, textures, [*self.contents, *self.textures]) for card in cards]

    def settings(self) -> dict[str, Any]:
        """All settings that the pictures depend on."""
        return {
            "recipe": RECIPE,
            "model": self.styler.name,
            "weights_digest": self.styler.weights_digest,
            "size": self.recipe.size,
            "steps": self.recipe.steps,
            "weights": list(self.recipe.weights),
            "seed": self.recipe.seed,
            "contents": _listed(self.contents),
            "textures": _listed(self.textures),
        }

    def make(self, folder: StyledFolder, concurrency: int, advance: Callable[[int], None]) -> StyledReport:
        """Makes the pictures that are not in the folder, and lists all of them there with their two classes."""
        wanted = [self._wanted(each) for each in self.conflicts]
        report = folder.make(self._client, wanted, concurrency, advance)
        self.conflicts = [each for each in self.conflicts if each.file not in report.failed]
        file = io.StringIO()
        table = csv.writer(file)
        table.writerow(("file", "shape", "texture", "content_weight"))
        for each in self.conflicts:
            table.writerow((each.file, each.shape.class_name, each.texture.class_name, each.weight))
        replace_file(folder.path / LIST, file.getvalue().encode())
        return report

    def judge(self, folder: Path, concurrency: int, advance: Callable[[int], None]) -> list[Judged]:
        """Has every network decide on every picture, and on the squares that they were made from."""
        return [self._judged(judge, folder, concurrency, advance) for judge in self.judges]

    def __len__(self) -> int:
        """How many answers `judge` waits for."""
        return len(self.judges) * (len(self.conflicts) + len(self.contents) + len(self.textures))

    def _wanted(self, conflict: Conflict) -> Wanted:
        arguments = {
            "model": self.styler.name,
            "size": self.recipe.size,
            "steps": self.recipe.steps,
            "content_weight": conflict.weight,
            "seed": self.recipe.seed,
            "priority": "batch",
        }
        content = partial(_png, conflict.shape.pixels)
        return Wanted(conflict.file, content, _png(conflict.texture.pixels), arguments)

    def _judged(self, judge: Judge, folder: Path, concurrency: int, advance: Callable[[int], None]) -> Judged:
        judged = Judged(judge)
        squares = [*self.contents, *self.textures]
        pictures: list[Any] = [*(folder / each.file for each in self.conflicts), *(each.pixels for each in squares)]
        answers = self._client.predict_many(
            pictures,
            model=judge.card.name,
            top_k=min(len(judge.card.classes), _MAX_PREDICT_CLASSES),
            preprocess="whole_image",
            priority="batch",
            concurrency=concurrency,
        )
        found = list[Decision]()
        for answer in answers:
            found.append(decision(answer, judge.numbers))
            advance(1)
        for conflict, each in zip(self.conflicts, found, strict=False):
            judged.decisions[conflict.file] = each
        known = [d.best_of_set == s.class_name for d, s in zip(found[len(self.conflicts) :], squares, strict=True)]
        judged.known_shapes = sum(known[: len(self.contents)])
        judged.known_textures = sum(known[len(self.contents) :])
        return judged


def decision(prediction: Prediction, numbers: Mapping[str, int]) -> Decision:
    """The best class, and the best of those in `numbers`; a class beyond those that are told counts as no class."""
    names = {number: name for name, number in numbers.items()}
    best_of_set = next((names[score.class_index] for score in prediction if score.class_index in names), "")
    best = prediction[0]
    return Decision(names.get(best.class_index, best.class_name), best_of_set)


def _check_impartial(card: ModelCard, styler: ModelCard) -> None:
    if card.weights_digest == styler.weights_digest or card.name == styler.name:
        alias = "" if card.name == styler.name else f" (as {styler.name}, with the same weights)"
        raise ValueError(
            f"{card.name} makes the pictures{alias}, so that it cannot judge them: it would see its own style in all "
            "of them. Name other models with --judge, or another one with --styler"
        )


def _squares(contents: Sources, textures: Sources, card: ModelCard, size: int) -> tuple[list[Source], list[Source]]:
    """The squares of contents and textures; their classes are named as the first judge names them."""
    names = [[card.classes[label] for label in _labels(card, each)] for each in (contents, textures)]
    return contents.squares(size, names[0]), textures.squares(size, names[1])


def _conflicts(contents: Sequence[Source], textures: Sequence[Source], weights: Sequence[float]) -> Iterator[Conflict]:
    for weight in weights:
        for shape in contents:
            for texture in textures:
                if shape.class_name != texture.class_name:
                    yield Conflict(f"{_folder(weight)}/{shape.name}-{texture.name}.png", weight, shape, texture)


def _judge(card: ModelCard, contents: Sources, textures: Sources, sources: Sequence[Source]) -> Judge:
    labels = [*_labels(card, contents), *_labels(card, textures)]
    return Judge(card, {each.class_name: label for each, label in zip(sources, labels, strict=True)})


def _labels(card: ModelCard, sources: Sources) -> list[int]:
    """The numbers of the sources' classes. Raises ValueError, which names the judge, where it lacks one."""
    try:
        return sources.labels(card.classes)
    except ValueError as error:
        raise ValueError(f"{card.name} cannot judge: {error}") from error


def _listed(sources: Sequence[Source]) -> list[dict[str, str]]:
    digests = [hashlib.sha256(each.pixels.tobytes()).hexdigest() for each in sources]
    return [{"name": s.name, "class": s.class_name, "sha256": d} for s, d in zip(sources, digests, strict=True)]


def _png(pixels: Array) -> bytes:
    return images.png(Image.fromarray(pixels))
