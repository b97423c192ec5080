"""What Maximize is asked to maximise, checked against the model's card, and named."""

import math
from collections.abc import Sequence

from gradserve.v1 import maximize_pb2

from ...methods.maximize import Goal, Summand
from ...models.card import ModelCard
from ..errors import Violations
from ..reply import resolved_target, target_name
from ..targets import has_channels, known_layer, target_of

MAX_GOALS, MAX_SUMMANDS = 16, 64
MAX_WEIGHT = 1e9


def goals_of(
    messages: Sequence[maximize_pb2.Goal], card: ModelCard, own_size: bool, ranked: bool, violations: Violations
) -> tuple[Goal, ...]:
    """The goals; `ranked`: there is a picture whose predicted classes have ranks."""
    if not 1 <= len(messages) <= MAX_GOALS:
        violations.add("goals", f"must be 1 to {MAX_GOALS}, were {len(messages)}", for_every_model=True)
        return ()
    return tuple(
        _goal(message, card, f"goals[{i}]", own_size, ranked, violations) for i, message in enumerate(messages)
    )


def _goal(
    message: maximize_pb2.Goal, card: ModelCard, path: str, own_size: bool, ranked: bool, violations: Violations
) -> Goal:
    if not 1 <= len(message.summands) <= MAX_SUMMANDS:
        violations.add(
            f"{path}.summands", f"must be 1 to {MAX_SUMMANDS}, were {len(message.summands)}", for_every_model=True
        )
        return ()
    summands = []
    for i, summand in enumerate(message.summands):
        at = f"{path}.summands[{i}]"
        term = _summand(summand, card, at, own_size, violations)
        if term and term.target and term.target.rank and not ranked:
            violations.add(f"{at}.target", "a rank needs a picture to start from; name the class", for_every_model=True)
        if term:
            summands.append(term)
    return tuple(summands)


def _summand(
    message: maximize_pb2.Summand, card: ModelCard, path: str, own_size: bool, violations: Violations
) -> Summand | None:
    weight = message.weight if message.HasField("weight") else 1.0
    if not (math.isfinite(weight) and 0 < abs(weight) <= MAX_WEIGHT):
        violations.add(
            f"{path}.weight",
            f"must be a number other than 0, at most {MAX_WEIGHT:g}, was {weight:g}",
            for_every_model=True,
        )
    kind = message.WhichOneof("kind")
    if kind == "target":
        target = target_of(message.target, card, f"{path}.target", own_size, violations)
        return None if target is None else Summand(weight, target)
    if kind == "layer":
        layer = known_layer(message.layer, card, f"{path}.layer", violations)
        return None if layer is None else Summand(weight, layer=layer.name)
    if kind == "direction":
        return _direction(message.direction, weight, card, f"{path}.direction", violations)
    violations.add(path, "sets none of target, layer and direction; set one", for_every_model=True)
    return None


def _direction(
    message: maximize_pb2.Direction, weight: float, card: ModelCard, path: str, violations: Violations
) -> Summand | None:
    layer = known_layer(message.layer, card, f"{path}.layer", violations)
    if layer is None:
        return None
    vector = tuple(message.vector)
    if not has_channels(layer, card, f"{path}.layer", violations):
        return None
    if len(vector) != layer.channels:
        violations.add(f"{path}.vector", f"must have {layer.channels} numbers, one for each channel, had {len(vector)}")
    elif not all(map(math.isfinite, vector)) or not any(vector):
        violations.add(f"{path}.vector", "must be finite numbers, not all of them 0", for_every_model=True)
    return Summand(weight, layer=layer.name, vector=vector)


def goal_reply(goal: Goal, labels: Sequence[int | None]) -> maximize_pb2.Goal:
    """The goal as a message, with the class for each summand where it has one."""
    summands = []
    for summand, label in zip(goal, labels, strict=True):
        message = maximize_pb2.Summand(weight=summand.weight)
        if summand.target is not None:
            message.target.CopyFrom(resolved_target(summand.target, label))
        elif summand.vector:
            message.direction.layer = summand.layer
            message.direction.vector.extend(summand.vector)
        else:
            message.layer = summand.layer
        summands.append(message)
    return maximize_pb2.Goal(summands=summands)


def goal_name(goal: maximize_pb2.Goal, card: ModelCard) -> str:
    """ "flamingo", or "features.4:17 - 0.5 volcano"."""
    words: list[str] = []
    for summand in goal.summands:
        sign, size = ("-" if summand.weight < 0 else "+"), abs(summand.weight)
        if words or sign == "-":
            words.append(sign)
        if size != 1:
            words.append(f"{size:g}")
        words.append(_summand_name(summand, card))
    return " ".join(words)


def _summand_name(summand: maximize_pb2.Summand, card: ModelCard) -> str:
    kind = summand.WhichOneof("kind")
    if kind == "target":
        return target_name(summand.target, card)
    return summand.layer if kind == "layer" else f"a direction in {summand.direction.layer}"
