"""What an attack's source of gradients must be: the attacked model itself, or a surrogate that fits it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...methods.attack import METHODS
from ...models.card import ModelCard
from ...models.served import ServedModels
from ..errors import Violations, near, shown
from ..request import check_loaded


def check_surrogate(
    name: str, card: ModelCard, size: Sequence[int], cards: ServedModels, violations: Violations
) -> None:
    """Violations where the surrogate of an attack by transfer does not fit the attacked model."""
    check_loaded(name, cards)
    surrogate, path = cards.get(name), "method.transfer.surrogate"
    if any(each is not None and each.positions for each in (card, surrogate)):
        violations.not_applicable("transfer does not apply to networks that give a score for each position; take pgd")
    if surrogate is None:
        violations.add(path, f"there is no model {shown(name)}; {near(name, cards)}", for_every_model=True)
    elif surrogate.head != card.head:
        heads = f"{name} has the head {surrogate.head}, {card.name} has {card.head}"
        violations.add(path, f"must mean the same by its outputs: {heads}; name a surrogate with the head {card.head}")
    elif len(surrogate.classes) != len(card.classes):
        counts = f"{name} has {len(surrogate.classes)} classes, {card.name} has {len(card.classes)}"
        violations.add(path, f"must tell the same classes apart: {counts}; name a surrogate of the same classes")
    elif (surrogate.height, surrogate.width) != tuple(size) and not (
        surrogate.any_size and min(size) >= surrogate.min_size
    ):
        sizes = f"{name} takes {surrogate.width}x{surrogate.height} pictures, not {size[1]}x{size[0]}"
        violations.add(path, f"{sizes}; send one of that size AS_IS, or name another surrogate")


def check_gradient(
    name: str, parameters: Mapping[str, Any], card: ModelCard, cards: Mapping[str, ModelCard], violations: Violations
) -> None:
    """Methods that follow gradients need a model that has them: the surrogate, or else the attacked model."""
    source = cards.get(parameters.get("surrogate", ""), card)
    if source.no_gradient and METHODS[name].rows(parameters).gradients:
        alternatives = ", ".join(n for n, method in METHODS.items() if method.uses == "scores")
        violations.not_applicable(
            f"{name} does not apply to {source.name}: {source.no_gradient}; {alternatives} need no gradient"
        )
