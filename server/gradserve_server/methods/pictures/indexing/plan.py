"""Which layers an index of pictures is of, and what it keeps of each."""

from collections.abc import Sequence
from dataclasses import dataclass

from ....models.card import Layer, ModelCard
from ...indexes.folder import IndexFault

MAX_DEFAULT_LAYERS = 12
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
    """At most MAX_DEFAULT_LAYERS layers from the first to the last: the places that all information goes through.

    These are the maps and vectors before the logits on which all that runs later depends. Of those between two
    convolutions or linear layers the last is taken: a block rather than the ReLU at its end. Where they are more, some
    are taken at even distances.
    """
    running = [layer for layer in card.layers if card.reaches(layer)]
    weighted = [layer.number for layer in (*running, *card.folded_layers) if layer.weight]
    places: dict[int, Layer] = {}
    for i, layer in enumerate(running):
        inside = layer.grad_cam or (layer.layout == "vector" and layer.name != card.logits_layer)
        before = sum(number <= layer.number for number in weighted)
        if inside and before and before < len(weighted) and all(card.reaches(layer, each) for each in running[i + 1 :]):
            places[before] = layer
    layers = list(places.values())
    if not layers:
        raise IndexFault(f"{card.name} has no layer that all information goes through; name some with --layers")
    count = min(len(layers), MAX_DEFAULT_LAYERS)
    return [layers[round(i * (len(layers) - 1) / max(1, count - 1))] for i in range(count)]
