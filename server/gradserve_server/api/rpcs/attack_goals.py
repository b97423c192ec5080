"""What an attack is to reach and the loss that it climbs: from its request to a goal."""

from typing import Any

from gradserve.v1 import attack_pb2
from gradserve.v1 import common_pb2 as pb

from ...methods.attack import FROM_SCRATCH, METHODS, GoalSpec, Loss
from ...models.card import ModelCard
from ..arguments.targets import class_named, single_target
from ..errors import Violations
from ..fields import choice

LOSS, PICK = (attack_pb2.DESCRIPTOR.enum_types_by_name[name] for name in ("Loss", "Pick"))
MIN_DLR_CLASSES = 3  # The DLR loss needs this many classes, and with a target one more.


def goal_spec_of(request: attack_pb2.AttackRequest, name: str, card: ModelCard, violations: Violations) -> GoalSpec:
    """The goal of an attack by the method `name`, "" where none is set. Adds what is wrong to the violations."""
    method = METHODS[name or "pgd"]
    loss: Any = choice(LOSS, request.loss, "loss", violations) or method.loss
    label = _label(request.label, card, violations) if request.HasField("label") else None
    target, pick = _target(request.target, card, violations)
    if target is not None and target == label:
        violations.add("target", f"is the true label {card.classes[target]!r} itself; name another class")
    if name in FROM_SCRATCH and not request.target.WhichOneof("kind"):
        violations.add("target", f"must be set for {name}", for_every_model=True)
    if method.tries_classes and request.HasField("target"):
        text = f"does not apply to {name}, which tries other classes in turn; leave it out, or take apgd"
        violations.add("target", text, for_every_model=True)
    if method.fixed_loss and request.loss:
        violations.add("loss", f"does not apply to {name}, which has its own; leave it out", for_every_model=True)
    _check_classes(name, loss, target is not None or pick is not None, card, violations)
    return GoalSpec(label, target, pick, loss, name in FROM_SCRATCH, card.head)


def _check_classes(name: str, loss: Loss, has_target: bool, card: ModelCard, violations: Violations) -> None:
    """Notes what does not apply: methods and losses that compare classes need a softmax head, DLR enough classes."""
    method = METHODS[name or "pgd"]
    why = f"compares classes that exclude each other, and {card.name} has the head {card.head}"
    if card.head != "softmax" and method.tries_classes:
        violations.not_applicable(f"{name} {why}; take apgd or square")
    elif card.head != "softmax" and loss == "dlr":
        violations.not_applicable(f"loss DLR {why}; take MARGIN, the class's own logit")
    needed = MIN_DLR_CLASSES + (has_target or method.tries_classes)
    if card.head != "softmax" or len(card.classes) >= needed:
        return
    if loss == "dlr":
        violations.not_applicable(f"loss DLR needs {needed} classes, {card.name} has {len(card.classes)}; take MARGIN")
    elif name == "ensemble":
        text = f"ensemble needs {needed} classes for its loss DLR, {card.name} has {len(card.classes)}"
        violations.not_applicable(f"{text}; take apgd, fab_targeted and square one by one")


def _label(message: pb.Target, card: ModelCard, violations: Violations) -> int | None:
    if message.WhichOneof("kind") not in ("class_index", "class_name"):
        violations.add("label", "must be a class_index or a class_name", for_every_model=True)
        return None
    if message.HasField("region"):
        violations.add("label.region", "an attack has one region, score_region", for_every_model=True)
    target = single_target(message, card, "label", True, violations)
    return None if target is None else target.label


def _target(message: attack_pb2.AttackTarget, card: ModelCard, violations: Violations) -> tuple[int | None, Any]:
    """A class's index, or how to pick one."""
    kind = message.WhichOneof("kind")
    if kind == "class_name":
        named = class_named(message.class_name, card, "target", violations)
        return (None if named is None else named.label), None
    if kind == "class_index" and message.class_index >= len(card.classes):
        allowed = f"must be from 0 to {len(card.classes) - 1}"
        violations.add("target.class_index", f"{allowed}, was {message.class_index}")
    if kind == "pick":
        return None, choice(PICK, message.pick, "target.pick", violations, required=True)
    return (message.class_index if kind == "class_index" else None), None
