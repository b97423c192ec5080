"""Concepts: the direction that pictures of a concept have in common, and the classes that depend on it.

After TCAV (Kim et al. 2018). A class's derivative along the direction is not judged by their t-test over runs, which
calls most pairs of concept and class significant, but by those along directions between random halves of the pictures.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...engine.job import Job, MethodContext, Steps
from ...engine.objective import NotApplicable, Objective, ranked
from ...engine.query import ModelRead, Query, Tap
from ...engine.scores import averaged
from ..targets import Prerequisites, Target
from .regression import accuracy, centred, direction, halves
from .significance import scores_of, threshold_of

QUERIES = 64  # Classes whose gradients are asked for at once.
MAX_ANGLE = 1e-3  # The most that a gradient may leave the weights' direction, as a share of its length.


@dataclass(frozen=True, slots=True)
class ConceptsArguments:
    """What the pictures are, in their order: some of the concept, negatives, and some at which derivatives are taken.

    `logits_layer`: the layer whose weights are taken where there are none of the last kind.
    """

    layer: str
    concepts: int
    negatives: int
    classes: tuple[Target, ...]
    complete: bool  # Whether these are all classes.
    random_directions: int
    logits_layer: str = ""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A class's mean derivative along the direction, its z, and its rank among all classes if that is known."""

    target: Target
    derivative: float
    z: float
    rank: int | None


@dataclass(frozen=True, slots=True)
class ConceptDirection:
    """The unit direction [C], the share of pictures that it tells right when left out, and the classes."""

    vector: np.ndarray
    accuracy: float
    classes: tuple[Sensitivity, ...]  # By falling derivative.
    threshold: float  # The |z| from which a class is significant.


def concepts(job: Job, x: Tensor, arguments: ConceptsArguments) -> Steps:
    """[n, 3, H, W] -> ConceptDirection."""
    run, shown = job.run(), arguments.concepts + arguments.negatives
    tap = Tap(arguments.layer, reduce=lambda act, _: averaged(act))
    answer = yield Query(x[:shown], taps=(tap,))
    features = centred(answer.acts[0].double().cpu().numpy())
    labels = np.where(np.arange(shown) < arguments.concepts, 1.0, -1.0)
    vector = direction(features, labels)
    if vector is None:
        raise NotApplicable(f"{arguments.layer} gives the same for the concept and the negatives; name another layer")
    randoms = _random_directions(features, arguments, run)
    share = accuracy(features, labels, run.generator(0))
    everything = yield from _gradients(x, arguments)  # [classes, C]
    derivatives, random = everything @ vector, everything @ randoms.T
    z = scores_of(derivatives, random)
    known = arguments.complete or bool(arguments.logits_layer)  # The derivatives of all classes.
    places = [target.label or 0 if known else i for i, target in enumerate(arguments.classes)]
    rows = [
        Sensitivity(
            target, float(derivatives[i]), float(z[i]), 1 + int((derivatives > derivatives[i]).sum()) if known else None
        )
        for i, target in zip(places, arguments.classes, strict=True)
    ]
    rows.sort(key=lambda row: -row.derivative)
    return ConceptDirection(vector.astype(np.float32), share, tuple(rows), threshold_of(random[places]))


def _random_directions(features: np.ndarray, arguments: ConceptsArguments, run: MethodContext) -> np.ndarray:
    """Directions between random halves of the pictures, [directions, C].

    Each half has half of the concept's pictures and half of the negatives. Halves of the negatives alone do not know
    how much the concept's pictures differ among themselves: of 40 concepts of 12 random photos, against 24, 19 then had
    some significant class of the 1000 of `imagenet`, and by these halves 7 (2026-11-30).
    """
    counts, numbers = (arguments.concepts, arguments.negatives), range(1, 1 + arguments.random_directions)
    found = [direction(features, halves(counts, run.generator(i))) for i in numbers]
    if any(each is None for each in found):
        raise NotApplicable(f"{arguments.layer} gives the same for all pictures; send others, or name another layer")
    return np.stack([each for each in found if each is not None])


def _gradients(x: Tensor, arguments: ConceptsArguments) -> Steps:
    """The gradient of each class by the layer's averaged channels, [classes, C]."""
    first = arguments.concepts + arguments.negatives
    if len(x) == first:
        return (yield from _by_weights(x[:1], arguments))
    rows = list[np.ndarray]()
    for start in range(0, len(arguments.classes), QUERIES):
        part = arguments.classes[start : start + QUERIES]
        answers = yield [_query(x[first:], target.objective(Prerequisites()), arguments.layer) for target in part]
        rows += [answer.acts[0].double().mean(0).cpu().numpy() for answer in answers]
    return np.stack(rows)


def _query(images: Tensor, objective: Objective, layer: str) -> Query:
    """Asks for the gradient by the layer, summed over its map: that by a step of the same length at every position."""
    tap = Tap(layer, reduce=lambda _, grad: grad if grad.dim() == 2 else grad.sum((2, 3)))
    return Query(images, objective, "taps", (tap,))


def _by_weights(image: Tensor, arguments: ConceptsArguments) -> Steps:
    """The weights of the layer that gives the logits, [classes, C], which must be what a gradient is a multiple of.

    That holds where only linear operations lie between, and where what follows is an activation at each position.
    Raises NotApplicable where it does not.
    """
    weights = (yield ModelRead(lambda model: model.weights(arguments.logits_layer))).double().cpu().numpy()
    weights = weights.reshape(len(weights), -1)
    answer = yield _query(image, ranked(1), arguments.layer)
    if len(weights) == 1:  # A binary head's one number z stands for the logits -z and z.
        weights = np.concatenate([-weights, weights])
    gradient, own = answer.acts[0][0].double().cpu().numpy(), weights[int(answer.logits[0].argmax())]
    share = gradient @ own / (own @ own) if own.any() else 0.0
    if not 0 < share <= 1 + MAX_ANGLE or np.linalg.norm(gradient - share * own) > MAX_ANGLE * np.linalg.norm(gradient):
        between = f"what lies between {arguments.layer} and {arguments.logits_layer}, which gives the logits, is not"
        raise NotApplicable(f"{between} linear, so that its weights are no derivatives; send class_images")
    return weights
