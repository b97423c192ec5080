"""Targets: a class, a rank, a unit or a channel; a weighted sum of those; the likeness to an image; a direction."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..engine.job import Steps
from ..engine.objective import NotApplicable, Objective, channel, direction, logit, ranked, similarity, unit
from ..engine.query import Query, Tap
from ..engine.scores import averaged, ranking
from ..models.preprocess import to_batch


@dataclass(frozen=True, slots=True)
class Target:
    """A class by index or by predicted rank (1 is the top), or a unit or channel of a layer."""

    label: int | None = None
    rank: int | None = None
    layer: str = ""
    channel: int = 0
    position: tuple[int, int] | None = None

    @property
    def needs_ranking(self) -> bool:
        """Whether the classes must be ranked before it is known which class it means."""
        return bool(self.rank)

    def resolved(self, classes: Sequence[int]) -> "Target":
        """The same with the class that a rank stands for, given the classes by falling logit."""
        return Target(label=classes[self.rank - 1]) if self.rank else self

    def objective(self, prerequisites: "Prerequisites") -> Objective:
        """The number to differentiate. A rank that was not resolved is looked up in each row by itself."""
        if self.layer:
            return (
                unit(self.layer, self.channel, *self.position) if self.position else channel(self.layer, self.channel)
            )
        return ranked(self.rank) if self.rank else logit(self.label or 0)


@dataclass(frozen=True, slots=True)
class Contrast:
    """A weighted sum of targets, less the mean logit of the other classes among the `top` predicted ones."""

    terms: tuple[tuple[Target, float], ...]
    top: int = 0

    @property
    def needs_ranking(self) -> bool:
        """Whether the classes must be ranked before it is known which classes it has."""
        return bool(self.top) or any(target.rank for target, _ in self.terms)

    def resolved(self, classes: Sequence[int]) -> "Contrast":
        """The same with a term for every class. Raises NotApplicable where terms cancel out."""
        terms = [(target.resolved(classes), weight) for target, weight in self.terms]
        named = {target.label for target, _ in terms}
        others = [label for label in classes[: self.top] if label not in named]
        if self.top and not others:
            raise NotApplicable(f"the contrast names all of the top {self.top} classes; ask for the others of more")
        terms += [(Target(label=label), -1 / len(others)) for label in others]
        if twice := cancelled(terms):
            raise NotApplicable(
                f"class {twice.label} is contrasted with itself, since a rank turned out to be that class; "
                "name another class or rank"
            )
        return Contrast(tuple(terms))

    def objective(self, prerequisites: "Prerequisites") -> Objective:
        """The number to differentiate."""
        objectives = [weight * target.objective(prerequisites) for target, weight in self.terms]
        return Objective(tuple(term for objective in objectives for term in objective.terms))


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """The cosine between a layer's features of the image and those of another one."""

    layer: str
    image: np.ndarray | None  # The other image, [H, W, 3], uint8 or float32 in [0, 1]; None in answers.

    @property
    def needs_ranking(self) -> bool:
        """False: it has no classes."""
        return False

    def resolved(self, classes: Sequence[int]) -> "Similarity":
        """Itself."""
        return self

    def objective(self, prerequisites: "Prerequisites") -> Objective:
        """The number to differentiate."""
        return similarity(self.layer, prerequisites.features[self])


@dataclass(frozen=True, slots=True)
class Direction:
    """The mean over a layer's map of its projection on a direction, taken at unit length."""

    layer: str
    vector: tuple[float, ...]  # [C]
    name: str = ""  # By which a caller keeps it.

    @property
    def needs_ranking(self) -> bool:
        """False: it has no classes."""
        return False

    def resolved(self, classes: Sequence[int]) -> "Direction":
        """Itself."""
        return self

    def objective(self, prerequisites: "Prerequisites") -> Objective:
        """The number to differentiate."""
        return direction(self.layer, torch.tensor(self.vector, dtype=torch.float64))


AnyTarget = Target | Contrast | Similarity | Direction


class Prerequisites(NamedTuple):
    """What targets need before they can be scored: each row's classes by falling logit, other images' features [C]."""

    classes: Sequence[Sequence[int]] = ()
    features: Mapping[Similarity, Tensor] = {}


def look_up(targets: Iterable[AnyTarget], x: Tensor, *, resolve_ranks: bool = True) -> Steps:
    """Asks for the prerequisites of targets of images [n, 3, H, W]. Returns Prerequisites.

    `resolve_ranks`: whether plain ranks are looked up too. Otherwise the pass that scores them finds their classes.
    """
    aims = list(targets)
    others = list(dict.fromkeys(target for target in aims if isinstance(target, Similarity)))
    queries = [_features(each, x) for each in others]
    if ranked_first := any(_ranked_first(each, resolve_ranks) for each in aims):
        queries.append(Query(x))
    if not queries:
        return Prerequisites()
    answers = yield queries
    classes = ranking(answers[-1].logits).tolist() if ranked_first else []
    return Prerequisites(classes, {other: answer.acts[0][0] for other, answer in zip(others, answers, strict=False)})


def look_up_rows(targets: Iterable[AnyTarget], images: int = 1, *, resolve_ranks: bool = True) -> int:
    """The rows that `look_up` asks for."""
    aims = list(targets)
    similar = len({target for target in aims if isinstance(target, Similarity)})
    return similar + images * any(_ranked_first(each, resolve_ranks) for each in aims)


def _ranked_first(target: AnyTarget, resolve_ranks: bool) -> bool:
    """Whether a pass must rank the classes before the target can be scored."""
    return target.needs_ranking and (resolve_ranks or (isinstance(target, Contrast) and bool(target.top)))


def _features(target: Similarity, x: Tensor) -> Query:
    assert target.image is not None, "only answers leave it out"
    image = to_batch(np.ascontiguousarray(target.image)[None], x.device, x.dtype)
    return Query(image, taps=(Tap(target.layer, reduce=lambda act, _: averaged(act)),))


def cancelled(terms: Iterable[tuple[Target, float]]) -> Target | None:
    """The first target that is named several times, with weights that sum to 0; None if there is none."""
    weights: dict[Target, list[float]] = defaultdict(list)
    for target, weight in terms:
        weights[target].append(weight)
    return next((target for target, each in weights.items() if len(each) > 1 and not fsum(each)), None)


def layers_of(target: AnyTarget) -> tuple[str, ...]:
    """The layers that a target reads; none where it reads logits alone."""
    parts = [each for each, _ in target.terms] if isinstance(target, Contrast) else [target]
    return tuple(dict.fromkeys(each.layer for each in parts if each.layer))


def without_image(target: AnyTarget) -> AnyTarget:
    """The target as it stands in an answer: without the image of a similarity."""
    return replace(target, image=None) if isinstance(target, Similarity) else target
