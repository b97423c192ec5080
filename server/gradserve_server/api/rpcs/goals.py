"""The goals of Maximize and Differentiate: checked against the model's card, put into replies, and named."""

from collections.abc import Sequence

import numpy as np

from gradserve.v1 import common_pb2, maximize_pb2

from ...methods.goals import Goal, Summand, weighted_targets
from ...methods.targets import Direction
from ...models.card import ModelCard
from ..arguments.targets import check_contrast, direction_of, known_layer, target_of, weight_of
from ..errors import Violations
from ..fields import enum_name
from ..reply import direction_name, sum_name, target_message, target_name, tensor
from ..request import CallContext

MAX_GOALS, MAX_SUMMANDS = 16, 64
BYTES_OF_FLOAT = 4


def goals_of(
    messages: Sequence[maximize_pb2.Goal],
    card: ModelCard,
    own_size: bool,
    ranked: bool,
    at: CallContext,
    violations: Violations,
) -> tuple[Goal, ...]:
    """The goals of Maximize; `ranked`: there is a picture whose predicted classes have ranks."""
    if not 1 <= len(messages) <= MAX_GOALS:
        violations.add("goals", f"must be 1 to {MAX_GOALS}, were {len(messages)}", for_every_model=True)
        return ()
    return tuple(
        goal_of(message, card, f"goals[{i}]", own_size, at, violations, ranked=ranked)
        for i, message in enumerate(messages)
    )


def goal_of(
    message: maximize_pb2.Goal,
    card: ModelCard,
    path: str,
    own_size: bool,
    at: CallContext,
    violations: Violations,
    *,
    ranked: bool = True,
) -> Goal:
    """One goal, without the summands at fault, for which there are violations."""
    if not 1 <= len(message.summands) <= MAX_SUMMANDS:
        violations.add(
            f"{path}.summands", f"must be 1 to {MAX_SUMMANDS}, were {len(message.summands)}", for_every_model=True
        )
        return ()
    summands = []
    for i, summand in enumerate(message.summands):
        place = f"{path}.summands[{i}]"
        term = _summand(summand, card, place, own_size, at, violations)
        if term and term.target and term.target.needs_ranking and not ranked:
            why = "a rank needs a picture to start from; name the class"
            violations.add(f"{place}.target", why, for_every_model=True)
        if term:
            summands.append(term)
    check_contrast(weighted_targets(tuple(summands)), f"{path}.summands", violations)
    return tuple(summands)


def _summand(
    message: maximize_pb2.Summand, card: ModelCard, path: str, own_size: bool, at: CallContext, violations: Violations
) -> Summand | None:
    weight = weight_of(message, path, violations)
    kind = message.WhichOneof("kind")
    if kind == "target":
        target = target_of(message.target, card, f"{path}.target", own_size, at, violations)
        return None if target is None else Summand(weight, target)
    if kind == "layer":
        layer = known_layer(message.layer, card, f"{path}.layer", violations)
        return None if layer is None else Summand(weight, layer=layer.name)
    if kind == "direction":
        target = direction_of(message.direction, card, f"{path}.direction", at, violations)
        return None if target is None else Summand(weight, target)
    if kind == "logits":
        return _logits(message.logits, weight, card, f"{path}.logits", violations)
    violations.add(path, "sets none of target, layer, direction and logits; set one", for_every_model=True)
    return None


def _logits(
    message: common_pb2.Tensor, weight: float, card: ModelCard, path: str, violations: Violations
) -> Summand | None:
    """A sum of all logits with a factor for each."""
    count, before = len(card.classes), len(violations.invalid)
    if message.dtype != common_pb2.DTYPE_FLOAT32:
        name = enum_name(common_pb2.DType.DESCRIPTOR, message.dtype).upper()
        violations.add(f"{path}.dtype", f"must be FLOAT32, was {name}", for_every_model=True)
    elif list(message.shape) != [count]:
        violations.add(f"{path}.shape", f"must be [{count}], a factor for each class, was {list(message.shape[:4])}")
    elif len(message.data) != count * BYTES_OF_FLOAT:
        text = f"must have {count * BYTES_OF_FLOAT} bytes, had {len(message.data)}"
        violations.add(f"{path}.data", text)
    if len(violations.invalid) > before:
        return None
    factors = np.frombuffer(message.data, "<f4")
    if not np.isfinite(factors).all() or not factors.any():
        violations.add(f"{path}.data", "must be finite numbers, not all of them 0")
    return Summand(weight, factors=factors.copy())


def goal_reply(goal: Goal) -> maximize_pb2.Goal:
    """The goal as a message."""
    summands = []
    for summand in goal:
        message = maximize_pb2.Summand(weight=summand.weight)
        if isinstance(summand.target, Direction):
            each = summand.target
            message.direction.MergeFrom(common_pb2.Direction(layer=each.layer, vector=each.vector, name=each.name))
        elif summand.target is not None:
            message.target.CopyFrom(target_message(summand.target))
        elif summand.factors is not None:
            message.logits.CopyFrom(tensor(summand.factors))
        else:
            message.layer = summand.layer
        summands.append(message)
    return maximize_pb2.Goal(summands=summands)


def goal_name(goal: maximize_pb2.Goal, card: ModelCard) -> str:
    """ "flamingo", or "features.4:17 - 0.5 volcano"."""
    return sum_name([(summand.weight, _summand_name(summand, card)) for summand in goal.summands])


def _summand_name(summand: maximize_pb2.Summand, card: ModelCard) -> str:
    kind = summand.WhichOneof("kind")
    if kind == "target":
        name = target_name(summand.target, card)
        return f"({name})" if summand.target.HasField("contrast") else name
    if kind == "logits":
        return "a sum of the logits"
    return summand.layer if kind == "layer" else direction_name(summand.direction)
