"""Targets and layers of a request, checked against the model's card."""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from gradserve.v1 import common_pb2 as pb

from ...methods.targets import AnyTarget, Contrast, Direction, Similarity, Target, cancelled
from ...models.card import Layer, ModelCard
from ..errors import RequestError, Violations, near, shown
from ..fields import choice
from ..request import PREPROCESSES, CallContext, read_picture

MAX_TARGETS, MAX_TERMS = 16, 16
MAX_WEIGHT = 1e9
MIN_TOP, MAX_TOP = 2, 100  # The range of a contrast's others_of_top.


class Weighted(Protocol):
    """A summand with its factor."""

    weight: float

    def HasField(self, field_name: str) -> bool:
        """Whether a field is set."""


def targets_of(
    messages: Sequence[pb.Target], card: ModelCard, own_size: bool, at: CallContext, violations: Violations
) -> list[AnyTarget]:
    """The targets, or the predicted class if there are none; those at fault are left out.

    `own_size`: the input has the card's size, so that a unit's position can be checked here and not only in the pass.
    """
    if len(messages) > MAX_TARGETS:
        violations.add("targets", f"must be at most {MAX_TARGETS}, were {len(messages)}", for_every_model=True)
        return []
    if not messages:
        return [Target(rank=1)]
    paths = [f"targets[{i}]" for i in range(len(messages))]
    pairs = zip(messages, paths, strict=True)
    targets = [target_of(message, card, path, own_size, at, violations) for message, path in pairs]
    return [target for target in targets if target is not None]


def target_of(
    message: pb.Target, card: ModelCard, path: str, own_size: bool, at: CallContext, violations: Violations
) -> AnyTarget | None:
    """One target, or None with a violation. Its region is read by `regions.py`."""
    kind = message.WhichOneof("kind")
    if message.HasField("region") and not card.positions:
        why = f"{card.name} gives one score for each picture"
        violations.not_applicable(f"{path}.region does not apply, since {why}; leave it out")
    elif message.HasField("region") and not reads_scores(message):
        violations.add(f"{path}.region", "is for classes, ranks and contrasts of them; leave it out")
    if kind == "contrast":
        return _contrast(message.contrast, card, f"{path}.contrast", own_size, violations)
    if kind == "similarity":
        return _similarity(message.similarity, card, f"{path}.similarity", at, violations)
    if kind == "direction":
        return direction_of(message.direction, card, f"{path}.direction", at, violations)
    return single_target(message, card, path, own_size, violations)


def reads_scores(message: pb.Target) -> bool:
    """Whether a target reads scores of classes, and not layers alone."""
    if message.WhichOneof("kind") == "contrast":
        contrast = message.contrast
        return contrast.HasField("others_of_top") or any(reads_scores(term.target) for term in contrast.terms)
    return message.WhichOneof("kind") not in ("unit", "similarity", "direction")


def _contrast(
    message: pb.Contrast, card: ModelCard, path: str, own_size: bool, violations: Violations
) -> Contrast | None:
    before = len(violations.invalid)
    if not 1 <= len(message.terms) <= MAX_TERMS:
        text = f"must be 1 to {MAX_TERMS}, were {len(message.terms)}"
        violations.add(f"{path}.terms", text, for_every_model=True)
    top = message.others_of_top
    if message.HasField("others_of_top") and not MIN_TOP <= top <= MAX_TOP:
        text = f"must be from {MIN_TOP} to {MAX_TOP}, was {top}"
        violations.add(f"{path}.others_of_top", text, for_every_model=True)
    terms = []
    for i, term in enumerate(message.terms[:MAX_TERMS]):
        at = f"{path}.terms[{i}]"
        weight = weight_of(term, at, violations)
        if term.target.HasField("region"):
            violations.add(f"{at}.target.region", "a contrast has one region, its own", for_every_model=True)
        if term.target.WhichOneof("kind") in ("contrast", "similarity", "direction"):
            text = "must be a class, rank, unit or channel; add the terms of a contrast to this one"
            violations.add(f"{at}.target", text, for_every_model=True)
        elif target := single_target(term.target, card, f"{at}.target", own_size, violations):
            terms.append((target, weight))
    check_contrast(terms, f"{path}.terms", violations)
    return Contrast(tuple(terms), top) if len(violations.invalid) == before else None


def check_contrast(terms: Sequence[tuple[Target, float]], path: str, violations: Violations) -> None:
    """A violation where one target is contrasted with itself."""
    if cancelled(terms):
        violations.add(path, "contrast a target with itself, which leaves nothing of it; name another")


def weight_of(message: Weighted, path: str, violations: Violations) -> float:
    """The factor of a summand, 1 if it has none; a violation where it is 0, too large or not finite."""
    weight = message.weight if message.HasField("weight") else 1.0
    if not (math.isfinite(weight) and 0 < abs(weight) <= MAX_WEIGHT):
        text = f"must be a number other than 0, at most {MAX_WEIGHT:g}, was {weight:g}"
        violations.add(f"{path}.weight", text, for_every_model=True)
    return weight


def _similarity(
    message: pb.Similarity, card: ModelCard, path: str, at: CallContext, violations: Violations
) -> Similarity | None:
    before = len(violations.invalid)
    choice(pb.Preprocess.DESCRIPTOR, message.preprocess, f"{path}.preprocess", violations)
    how = PREPROCESSES.get(message.preprocess, pb.PREPROCESS_MODEL_DEFAULT)
    pixels = read_picture(message.image, how, card, at, violations, f"{path}.image").pixels
    name = message.layer or card.grad_cam_layer
    if not name:
        violations.add(f"{path}.layer", f"must be named, since {card.name} has no usual layer for Grad-CAM")
    layer = known_layer(name, card, f"{path}.layer", violations) if name else None
    if layer is not None:
        has_channels(layer, card, f"{path}.layer", violations)
    return None if layer is None or len(violations.invalid) > before else Similarity(layer.name, pixels)


def direction_of(
    message: pb.Direction, card: ModelCard, path: str, at: CallContext, violations: Violations
) -> Direction | None:
    """A direction by its numbers, or one that the caller keeps; None with a violation."""
    if message.name and message.vector:
        text = f"has the name {shown(message.name)} and numbers too; send one of both"
        violations.add(path, text, for_every_model=True)
        return None
    if message.name:
        return _kept_direction(message, card, path, at, violations)
    layer = known_layer(message.layer, card, f"{path}.layer", violations)
    if layer is None or not has_channels(layer, card, f"{path}.layer", violations):
        return None
    count = len(message.vector)
    if count != layer.channels:
        violations.add(f"{path}.vector", f"must have {layer.channels} numbers, one for each channel, had {count}")
        return None
    vector = tuple(message.vector)
    if not all(map(math.isfinite, vector)) or not any(vector):
        violations.add(f"{path}.vector", "must be finite numbers, not all of them 0", for_every_model=True)
        return None
    return Direction(layer.name, vector)


def _kept_direction(
    message: pb.Direction, card: ModelCard, path: str, at: CallContext, violations: Violations
) -> Direction | None:
    try:
        kept = at.directions.get(message.name)
    except RequestError as error:
        violations.not_found(f"{path}.name", error)
        return None
    if (kept.model, kept.digest) != (card.name, card.digest):
        other = f"{kept.model} with other weights" if kept.model == card.name else kept.model
        violations.not_applicable(f"{path}.name: the direction {kept.name} is of {other}, and not of {card.name}")
        return None
    if message.layer and card.listed(message.layer) != kept.layer:
        violations.add(f"{path}.layer", f"{kept.name} is of {kept.layer}; name that, or leave it out")
        return None
    return Direction(kept.layer, tuple(kept.vector.tolist()), kept.name)


def single_target(
    message: pb.Target, card: ModelCard, path: str, own_size: bool, violations: Violations
) -> Target | None:
    """A class, rank, unit or channel, or None with a violation."""
    kind = message.WhichOneof("kind")
    if kind == "class_name":
        return class_named(message.class_name, card, path, violations)
    if kind == "unit":
        return _unit(message.unit, card, f"{path}.unit", own_size, violations)
    count = len(card.classes)
    if kind == "class_index" and message.class_index >= count:
        violations.add(f"{path}.class_index", f"must be from 0 to {count - 1}, was {message.class_index}")
        return None
    if kind == "rank" and not 1 <= message.rank <= count:
        violations.add(f"{path}.rank", f"must be from 1 to {count}, was {message.rank}")
        return None
    return Target(label=message.class_index) if kind == "class_index" else Target(rank=message.rank or 1)


def class_named(name: str, card: ModelCard, path: str, violations: Violations) -> Target | None:
    """The class of that name, or None with a violation."""
    # ImageNet has both a Cardigan and a cardigan.
    labels = [i for i, label in enumerate(card.classes) if label == name]
    labels = labels or [i for i, label in enumerate(card.classes) if label.lower() == name.lower()]
    if len(labels) == 1:
        return Target(label=labels[0])
    if labels:
        indices = ", ".join(map(str, labels))
        violations.add(
            f"{path}.class_name", f"{shown(name)} is the name of several classes; use class_index, one of {indices}"
        )
    else:
        hint = near(name, list(card.classes))
        violations.add(f"{path}.class_name", f"{card.name} has no class {shown(name)}; {hint}")
    return None


def _unit(message: pb.Unit, card: ModelCard, path: str, own_size: bool, violations: Violations) -> Target | None:
    layer = known_layer(message.layer, card, f"{path}.layer", violations)
    if layer is None:
        return None
    before = len(violations.invalid)
    if has_channels(layer, card, f"{path}.layer", violations) and message.channel >= layer.channels:
        violations.add(f"{path}.channel", f"must be from 0 to {layer.channels - 1}, was {message.channel}")
    if message.HasField("y") != message.HasField("x"):
        violations.add(path, "y and x must be set together, or neither", for_every_model=True)
    elif message.HasField("y"):
        _check_position(message, layer, path, own_size, violations)
    if len(violations.invalid) > before:
        return None
    position = (message.y, message.x) if message.HasField("y") and layer.layout != "vector" else None
    return Target(layer=layer.name, channel=message.channel, position=position)


def _check_position(message: pb.Unit, layer: Layer, path: str, own_size: bool, violations: Violations) -> None:
    if layer.layout == "vector":
        violations.add(path, f"{layer.name} is a vector: leave y and x out")
        return
    for name, value, size in (("y", message.y, layer.height), ("x", message.x, layer.width)):
        if value >= size and own_size:
            violations.add(f"{path}.{name}", f"must be from 0 to {size - 1}, was {value}")


RELEVANCE_NEEDS_LOGITS = "relevance is checked only for layers that the logits depend on; name one of these"


def not_leading_to_logits(names: Iterable[str], card: ModelCard) -> list[str]:
    """Those of the named layers on which the logits do not depend, or which come after them."""
    layers = [layer for name in dict.fromkeys(names) if (layer := card.layer(name)) is not None]
    return [layer.name for layer in layers if not card.reaches(layer)]


def known_layer(name: str, card: ModelCard, path: str, violations: Violations) -> Layer | None:
    """The layer, or None with a violation that names the nearest."""
    layer, listed = card.layer(name), card.listed(name)
    if layer is None and listed in card.folded:
        violations.add(path, f"{name} is folded into {card.folded[listed]}; use that name")
    elif layer is None:
        violations.add(path, f"{card.name} has no layer {shown(name)}; {near(name, [la.name for la in card.layers])}")
    return layer


def has_channels(layer: Layer, card: ModelCard, path: str, violations: Violations) -> bool:
    """Whether its output is a map or a vector, which alone have channels; if not, that is a violation."""
    if layer.layout == "other":
        why = f"{layer.name} has no channels: its output is neither a map nor a vector"
        violations.add(path, f"{why}; name another layer (`gradserve models {card.name}` lists them)")
    return layer.layout != "other"
