"""Concepts: what a layer gives for pictures of a concept and others, and the gradients of classes by that layer.

After TCAV (Kim et al. 2018). `analysis.py` finds the direction and the classes from these, while no device waits.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...engine.job import Job, Steps
from ...engine.objective import NotApplicable, Objective, ranked
from ...engine.query import ModelRead, Query, Tap
from ...engine.scores import averaged
from ..targets import Prerequisites, Target

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
class ConceptFeatures:
    """The layer's averaged channels of concept and negative pictures, [n, C], and classes' gradients by them.

    `gradients` [classes, C]: of all classes where they are the weights of the logits' layer, else of those asked for.
    """

    features: np.ndarray
    gradients: np.ndarray


def concepts(job: Job, x: Tensor, arguments: ConceptsArguments) -> Steps:
    """[n, 3, H, W] -> ConceptFeatures."""
    tap = Tap(arguments.layer, reduce=lambda act, _: averaged(act))
    answer = yield Query(x[: arguments.concepts + arguments.negatives], taps=(tap,))
    features = answer.acts[0].double().cpu().numpy()
    return ConceptFeatures(features, (yield from _gradients(x, arguments)))


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
