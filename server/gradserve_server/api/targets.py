"""Targets and layers of a request, checked against the model's card."""

from collections.abc import Sequence

from gradserve.v1 import common_pb2 as pb

from ..methods.targets import Target
from ..models.card import Layer, ModelCard
from .errors import Violations, near, shown

MAX_TARGETS = 16


def targets_of(messages: Sequence[pb.Target], card: ModelCard, own_size: bool, violations: Violations) -> list[Target]:
    """The targets, or the predicted class if there are none; those at fault are left out.

    `own_size`: the input has the card's size, so that a unit's position can be checked here and not only in the pass.
    """
    if len(messages) > MAX_TARGETS:
        violations.add("targets", f"must be at most {MAX_TARGETS}, were {len(messages)}", for_every_model=True)
        return []
    if not messages:
        return [Target(rank=1)]
    targets = [target_of(message, card, f"targets[{i}]", own_size, violations) for i, message in enumerate(messages)]
    return [target for target in targets if target is not None]


def target_of(message: pb.Target, card: ModelCard, path: str, own_size: bool, violations: Violations) -> Target | None:
    """One target, or None with a violation."""
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


def cam_layer(name: str, target: Target, card: ModelCard, path: str, violations: Violations) -> str:
    """The layer that Grad-CAM takes: the named one, the card's, or for a unit the last useful one that reaches it."""
    unit = card.layer(target.layer) if target.layer else None
    if name:
        layer = known_layer(name, card, f"{path}.layer", violations)
        if layer is None:
            return name
        if unit and card.order(layer.name) >= card.order(unit.name):
            why = f"{name} does not run before the target's layer {target.layer}"
            violations.add(f"{path}.layer", f"{why}; name an earlier layer, or leave layer out")
        elif not card.reaches(layer, unit):
            depends = f"the target's layer {target.layer} does not depend" if unit else "the logits do not depend"
            violations.add(
                f"{path}.layer", f"{depends} on what {name} gives, so that its map would be empty; name another"
            )
        return layer.name
    if unit is None or not card.grad_cam_layer:
        return card.grad_cam_layer
    usual = card.layer(card.grad_cam_layer)
    if usual is not None and not unit.is_map and card.reaches(usual, unit):
        return usual.name  # Later maps may reach the unit too, but only through few positions.
    earlier = [layer for layer in card.layers if layer.grad_cam and card.reaches(layer, unit)]
    earlier = [layer for layer in earlier if card.order(layer.name) < card.order(unit.name)]
    if not earlier:
        why = f"no layer with spatial extent runs before {target.layer} and reaches it"
        violations.add(f"{path}.layer", f"{why}; name a target of a later layer")
        return ""
    return earlier[-1].name
