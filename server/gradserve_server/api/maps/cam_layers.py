"""The layer of Grad-CAM for a target."""

from collections.abc import Sequence

from ...methods.targets import AnyTarget, Direction, Similarity, layers_of
from ...models.card import Layer, ModelCard
from ..arguments.targets import known_layer
from ..errors import Violations


def cam_layer(name: str, target: AnyTarget, card: ModelCard, path: str, violations: Violations) -> str:
    """The layer of Grad-CAM: the named one, the card's, or the last useful one before those that the target reads.

    For a similarity or a direction that may be its own layer, since all channels of it count.
    """
    own = [layer for layer in map(card.layer, layers_of(target)) if layer is not None]
    inclusive = isinstance(target, Similarity | Direction)
    if name:
        layer = known_layer(name, card, f"{path}.layer", violations)
        if layer is None:
            return name
        _check_reach(name, layer, own, inclusive, card, f"{path}.layer", violations)
        return layer.name
    if not own or not card.grad_cam_layer:
        return card.grad_cam_layer
    usual = card.layer(card.grad_cam_layer)
    if usual is not None and all(_fits_before(usual, each, inclusive, card) and not each.is_map for each in own):
        return usual.name  # Maps between it and the target may have too few positions to show anything.
    useful = [la for la in card.layers if la.grad_cam and all(_fits_before(la, each, inclusive, card) for each in own)]
    if not useful:
        names = ", ".join(each.name for each in own)
        why = f"no layer with spatial extent runs before {names} and reaches it"
        violations.add(f"{path}.layer", f"{why}; name a target of a later layer")
        return ""
    return useful[-1].name


def _fits_before(layer: Layer, own: Layer, inclusive: bool, card: ModelCard) -> bool:
    """Whether a target's own layer depends on `layer`, or is that layer where `inclusive` allows it."""
    if inclusive and layer.name == own.name:
        return True
    return card.reaches(layer, own) and card.order(layer.name) < card.order(own.name)


def _check_reach(
    name: str, layer: Layer, own: Sequence[Layer], inclusive: bool, card: ModelCard, path: str, violations: Violations
) -> None:
    """Violations where the target does not depend on the layer."""
    empty = f"on what {name} gives, so that its map would be empty; name another"
    for each in own:
        if inclusive and each.name == layer.name:
            continue
        if card.order(layer.name) >= card.order(each.name):
            why = f"{name} does not run before the target's layer {each.name}"
            violations.add(path, f"{why}; name an earlier layer, or leave layer out")
        elif not card.reaches(layer, each):
            violations.add(path, f"the target's layer {each.name} does not depend {empty}")
    if not own and not card.reaches(layer):
        violations.add(path, f"the logits do not depend {empty}")
