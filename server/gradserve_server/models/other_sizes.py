"""Whether backward rules apply on inputs of another size than the model's own, where a network may go another way."""

from collections.abc import Collection

import torch

from .activations import activations
from .behaviour import varied
from .prepared import Prepared
from .relevance.probe import applicability
from .rules import Relevance, Rule

MAX_KNOWN = 1024  # Sizes that are remembered for a model.


def refusal(model: Prepared, rules: Collection[Rule], height: int, width: int) -> str:
    """Why one of the rules does not apply on inputs of that size, or empty. What the card refuses is not asked for."""
    card = model.card
    if (height, width) == (card.height, card.width):
        return ""
    refused = ""
    if relevance := [rule for rule in rules if isinstance(rule, Relevance)]:
        own_input = any(rule.input != "same" for rule in relevance)
        refused = _known(model, "input" if own_input else "relevance", height, width)
    if not refused and ("guided" in rules or "deconvnet" in rules):
        refused = _known(model, "relu", height, width)
    return refused and f"on an input of {width}x{height} {refused}; send a picture of {card.width}x{card.height}"


def _known(model: Prepared, kind: str, height: int, width: int) -> str:
    """What trying has found for rules of that kind, now or before."""
    key = (kind, height, width)
    if key not in model.refusals:
        if len(model.refusals) >= MAX_KNOWN:
            model.refusals.clear()
        model.refusals[key] = _tried(model, kind, height, width)
    return model.refusals[key]


def _tried(model: Prepared, kind: str, height: int, width: int) -> str:
    images = varied(height, width)[:2].to(model.device, model.dtype)
    example = model.normalised(images.contiguous(memory_format=torch.channels_last))
    if kind != "relu":
        found = applicability(model.network, example, model.head)
        why = found.input_refused if kind == "input" else found.refused
        return f"relevance does not apply: {why}" if why else ""
    with torch.no_grad():
        logits = model.head.run(model.network, example)
    acts = activations(model.network, example, logits, model.head)
    if acts.refused:
        return f"guided rules do not apply: {acts.refused}"
    others = sorted(set(acts.others) - set(model.card.other_activations))
    return f"the network has activations that guided rules do not reach: {', '.join(others)}" if others else ""
