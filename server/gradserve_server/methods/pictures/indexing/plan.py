"""Which layers an index of pictures is of, and what it keeps of each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ....models.card import Layer, ModelCard
from ...indexes.folder import IndexFault

MIN_DEFAULT_LAYERS, MAX_DEFAULT_LAYERS = 4, 12
MAX_BLOCK = 6  # The most convolutions and linear layers of a block that is indexed as a whole.
TOP = 9  # Patches of a channel.
SPECTRUM = 9  # Pictures of a channel from the strongest to the weakest.
LAYOUTS = ("nchw", "nhwc", "tokens", "vector")


@dataclass(frozen=True)
class PicturesPlan:
    """What the index keeps."""

    layers: tuple[str, ...] = ()  # Empty for `default_layers`.
    top: int = TOP
    spectrum: int = SPECTRUM
    tsne: tuple[str, ...] = ()  # The layers of which a t-SNE is made.


def layers_of(card: ModelCard, names: Sequence[str]) -> list[Layer]:
    """The layers to index, in the order in which they run. Raises IndexFault for a name that none of them has."""
    if not names:
        return default_layers(card)
    chosen = {}
    for name in names:
        layer = card.layer(name)
        if layer is None and (norm := card.folded.get(card.listed(name))):
            raise IndexFault(f"{name} is folded into {norm}; use that name")
        if layer is None:
            there = ", ".join(each.name for each in card.layers if each.layout in LAYOUTS)
            raise IndexFault(f"{card.name} has no layer {name!r}; it has {there}")
        if layer.layout not in LAYOUTS:
            raise IndexFault(
                f"the output of {layer.name} ({layer.kind}) is no map or vector of each picture; name another"
            )
        chosen[layer.name] = layer
    return [layer for layer in card.layers if layer.name in chosen]


def default_layers(card: ModelCard) -> list[Layer]:
    """At most MAX_DEFAULT_LAYERS layers from the first to the last.

    These are the maps and vectors before the logits on which all that runs later depends. Of those between two
    convolutions or linear layers the last is taken, and of those inside a small block, such as a residual one, the
    block alone, unless that leaves fewer than MIN_DEFAULT_LAYERS. Where they are more, some are taken at even
    distances.
    """
    running = [layer for layer in card.layers if card.reaches(layer)]
    weighted = [layer for layer in (*running, *card.folded_layers) if layer.weight]
    blocks = _blocks([layer.name for layer in weighted])
    everywhere, outside = dict[int, Layer](), dict[int, Layer]()
    for i, layer in enumerate(running):
        taken = layer.grad_cam or (layer.layout == "vector" and layer.name != card.logits_layer)
        before = sum(each.number <= layer.number for each in weighted)
        if taken and 0 < before < len(weighted) and all(card.reaches(layer, each) for each in running[i + 1 :]):
            everywhere[before] = layer
            if not blocks & set(_around(layer.name)):
                outside[before] = layer
    layers = list((outside if len(outside) >= MIN_DEFAULT_LAYERS else everywhere).values())
    if not layers:
        raise IndexFault(f"{card.name} has no layer on which all later ones depend; name some with --layers")
    count = min(len(layers), MAX_DEFAULT_LAYERS)
    return [layers[round(i * (len(layers) - 1) / max(1, count - 1))] for i in range(count)]


def _blocks(weighted: Sequence[str]) -> set[str]:
    """The modules that hold two to MAX_BLOCK of these layers, and at most one other such module."""
    inside = Counter(module for name in weighted for module in _around(name))
    holders = {module for module, count in inside.items() if count > 1}
    held = Counter(module for holder in holders for module in _around(holder))
    return {module for module in holders if inside[module] <= MAX_BLOCK and held[module] <= 1}


def _around(name: str) -> list[str]:
    """The modules that a layer lies inside."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]
