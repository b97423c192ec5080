"""Where gradients go: which layers a layer depends on, and on which maps the logits have a gradient."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from .card import Layer
from .layouts import ROWS
from .outputs import PLAIN, Head
from .taps import Place, Taps, as_map

Node = Any  # A torch.autograd.graph.Node.
Edge = tuple[Node, int]

NOT_FOR_GRAD_CAM = ("Pool", "Dropout", "Identity", "Flatten", "Permute")  # Parts of the class names of such modules.
MIN_GRADIENT_SHARE = 0.5  # Smallest share of positions with a gradient, for a map to be a good default of Grad-CAM.
NO_GRADIENT = "GRAD_CAM: no layer that gives a map has a gradient from the logits; other methods need none"


@dataclass(frozen=True)
class Flow:
    """Layers with the layers that they depend on, those of the logits, and the default of Grad-CAM with a note."""

    layers: tuple[Layer, ...]
    upstream: int
    grad_cam_layer: str
    note: str


def flow(
    network: nn.Module, example: Tensor, layers: Sequence[Layer], places: Mapping[str, Place], head: Head = PLAIN
) -> Flow:
    """Finds the flow by one pass in which all layers are tapped, and its backward pass."""
    taps = Taps(set(places.values()), leaf=True)
    with taps.listening(network):
        logits = head.run(network, example.detach().requires_grad_())
    overwritten = taps.overwritten()
    layers = [layer for layer in layers if places[layer.name] not in overwritten]
    kept = {la.name: taps.kept[places[la.name]] for la in layers if places[la.name] in taps.kept}
    kept = {name: x for name, x in kept.items() if x.requires_grad}
    if not logits.requires_grad:
        return Flow(tuple(replace(layer, upstream=0) for layer in layers), 0, "", NO_GRADIENT)
    known: dict[Edge, int] = {}
    for layer in layers:
        if layer.name in kept:
            edge = _edge(kept[layer.name])
            known[edge] = known.get(edge, 0) | 1 << layer.number
    upstream = _upstream([_edge(logits), *known], known)
    traced = [replace(la, upstream=upstream[_edge(kept[la.name])] if la.name in kept else 0) for la in layers]
    top = logits.amax(1).sum()
    grads = torch.autograd.grad(top, list(kept.values()), allow_unused=True) if kept else ()
    shares = _shares(traced, dict(zip(kept, grads, strict=True)))
    to_logits = upstream[_edge(logits)]
    return Flow(tuple(traced), to_logits, *_default(traced, shares, to_logits, kept))


def _edge(x: Tensor) -> Edge:
    edge = get_gradient_edge(x)
    return edge.node, edge.output_nr


def _upstream(edges: Iterable[Edge], known: Mapping[Edge, int]) -> dict[Edge, int]:
    """The layers that each edge depends on; bit i is set for layer number i."""
    bits: dict[Node, int] = {}
    for edge in edges:
        waiting = [edge[0]]
        while waiting:
            node = waiting[-1]
            sources = [source for source in node.next_functions if source[0] is not None]
            unknown = [source for source, _ in sources if source not in bits]
            if unknown and node not in bits:
                waiting += unknown
                continue
            waiting.pop()
            bits[node] = 0
            for source in sources:
                bits[node] |= bits[source[0]] | known.get(source, 0)
    return {edge: bits[edge[0]] for edge in edges}


def _shares(layers: Iterable[Layer], grads: Mapping[str, Tensor | None]) -> dict[str, float]:
    """The share of positions with a gradient, for each layer that is a map or may be one."""
    shares = {}
    for layer in layers:
        grad = grads.get(layer.name)
        unknown = layer.layout == "other" and not any(word in layer.kind for word in NOT_FOR_GRAD_CAM)
        if grad is None or not (
            layer.grad_cam or (unknown and (_may_be_sequence(grad) or _has_several_rows_per_image(grad)))
        ):
            continue
        positions = as_map(grad, layer.layout, layer.tokens).abs().sum(1 if layer.grad_cam else -1)
        shares[layer.name] = (positions > 0).float().mean().item()
    return shares


def _may_be_sequence(x: Tensor) -> bool:
    """Whether x may hold positions of the image, in an order that is not known."""
    images = x.shape[0] if x.dim() > 3 else min(x.shape[:2])
    return x.dim() > 2 and images == ROWS and x.shape[:-1].numel() > ROWS


def _has_several_rows_per_image(x: Tensor) -> bool:
    """Whether a convolution gave x for several rows of each image."""
    return x.dim() == 4 and len(x) > ROWS and len(x) % ROWS == 0


def _default(
    layers: Sequence[Layer], shares: Mapping[str, float], upstream: int, kept: Mapping[str, Tensor]
) -> tuple[str, str]:
    """The name of the last map with a gradient on most positions, and a note where another map was expected."""
    maps = [layer for layer in layers if layer.grad_cam and upstream >> layer.number & 1]
    some = [layer for layer in maps if shares.get(layer.name, 0) > 0]
    good = [layer for layer in some if shares[layer.name] > MIN_GRADIENT_SHARE]
    chosen = next(iter([*good[-1:], *some[-1:], *maps[-1:]]), None)
    after = -1 if chosen is None else chosen.number
    later = [la for la in layers if la.layout == "other" and la.number > after and la.name in shares]
    unread = [
        la
        for la in later
        if shares[la.name] > (0 if _has_several_rows_per_image(kept[la.name]) else MIN_GRADIENT_SHARE)
    ]
    if chosen is not None and chosen.layout == "tokens":  # Four dimensions are the heads of attention.
        unread = [layer for layer in unread if kept[layer.name].dim() == 3]
    name = "" if chosen is None else chosen.name
    if unread:
        instead = f"takes {name}" if name else "does not apply"
        if _has_several_rows_per_image(kept[unread[-1].name]):
            times = len(kept[unread[-1].name]) // ROWS
            return name, (
                f"GRAD_CAM: by default it {instead}, since {unread[-1].name} gives {times} rows for each image, which "
                "are no map of it; name another layer"
            )
        return name, (
            f"GRAD_CAM: by default it {instead}, since what {unread[-1].name} gives later cannot be read as a map; if "
            "that is patches of the image row by row, say in the catalogue how many other tokens stand before and "
            "after them: tokens = { leading = 1, trailing = 0 }"
        )
    if not name and any(layer.grad_cam for layer in layers):
        return "", NO_GRADIENT
    if name and not good:
        share = "only few positions of it have" if some else "no position of it has"
        return name, (
            f"GRAD_CAM: by default it takes {name}; on a test image {share} a gradient, and no map has more, so that "
            "heat maps may be empty; name another layer"
        )
    return name, ""
