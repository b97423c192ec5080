"""Whether a network's head is a convolution, so that it has a map of scores for pictures of any size; and that map.

A global mean followed by one linear layer is the mean of that layer at every cell. Fully-connected layers on a map of
the size that the network was made for are convolutions: the first one with a kernel of the map's size, the others of
one cell (Sermanet et al. 2013). Both are tried on pictures, and the network's own logits must come out.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .behaviour import varied
from .card import Layer
from .out_of_memory import is_out_of_memory
from .prepared import Prepared
from .reach import last_map, measured
from .tiles import DenseHead, maps, refusal

TOLERANCE = 1e-4  # Relative to the largest logit; a head of another form is off by a multiple of that.


class NoDenseMap(ValueError):
    """The network's head is no convolution; the message says why."""


@dataclass(frozen=True, eq=False)
class DenseModel:
    """The head of a prepared network as a convolution."""

    model: Prepared
    head: DenseHead

    def scores(self, last_map: Tensor) -> Tensor:
        """The last map [1, C, h, w] -> the scores [1, outputs, h - side + 1, w - side + 1] of every cell."""
        if not self.head.chain:
            return self._linear(last_map)
        side = self.head.side
        x = F.unfold(last_map, side)[0].T  # A convolution would lay its large weight out anew each time.
        for name in self.head.chain:
            x = self._module(name)(x)
        cells = last_map.shape[2] - side + 1, last_map.shape[3] - side + 1
        scores: Tensor = x.T.unflatten(1, cells)
        return scores[None]

    def logits(self, last_map: Tensor) -> Tensor:
        """The last map [1, C, h, w] of a whole picture -> the network's own logits [1, outputs]."""
        if not self.head.chain:
            return self._linear(last_map).mean((2, 3))
        x = self._module(self.head.pool)(last_map) if self.head.pool else last_map
        return self.scores(x).flatten(1)

    def _linear(self, last_map: Tensor) -> Tensor:
        if not self.head.linear:
            return last_map
        module = self._module(self.head.linear)
        return F.conv2d(last_map, module.weight.reshape(*module.weight.shape[:2], 1, 1), module.bias)

    def _module(self, name: str) -> Any:
        place = self.model.place(name)
        return F.relu if place.relu else self.model.network.get_submodule(place.module)


def try_head(model: Prepared) -> DenseHead | None:
    """The next step, of a pass or a few, of trying what the head of a network is; None until the result is known.

    The network stays as it is.
    """
    return model.dense_trial.advance(lambda: _tried(model))


def _tried(model: Prepared) -> Generator[None, None, DenseHead]:
    try:
        return (yield from _checked(model))
    except NoDenseMap as why:
        return DenseHead(refused=str(why))
    except Exception as fault:  # A network of any kind may fail in any way on strips and parts of pictures.
        if is_out_of_memory(fault):
            raise  # Other requests may have taken the memory; the next request has the head tried again.
        return DenseHead(refused=f"trying it failed: {type(fault).__name__}: {fault}")


def _checked(model: Prepared) -> Generator[None, None, DenseHead]:
    card = model.card
    if why := refusal(card):
        raise NoDenseMap(why)
    if model.head.from_probabilities:
        raise NoDenseMap("it gives probabilities, of which a mean is no logit")
    layers = maps(card)
    head = (yield from _fully_connected(model, layers)) or (yield from _behind_mean(model, layers[-1]))
    return (yield from measured(model, head))


def _behind_mean(model: Prepared, last: Layer) -> Generator[None, None, DenseHead]:
    """The head behind a global mean. Raises NoDenseMap where it is another one."""
    card = model.card
    head = DenseHead(layer=last.name, channels=last.channels, least=card.min_size)
    linear = card.layer(card.logits_layer) if card.logits_layer else None
    weight = linear.weight if linear is not None else ()
    if linear is not None and linear.number > last.number and weight[1] == last.channels and set(weight[2:]) <= {1}:
        head = replace(head, linear=linear.name, gflop=2 * weight[0] * weight[1] / 1e9)
    elif last.channels != card.outputs:
        raise NoDenseMap(
            f"what follows its last map, {last.name}, is neither a global mean of scores nor one linear layer behind it"
        )
    for number, height in enumerate((card.height, card.height + card.height // 4)):
        if not _agrees(DenseModel(model, head), number, height):
            raise NoDenseMap(
                f"its logits are not the mean over {last.name} of {head.linear or 'its channels'}, since another "
                "operation stands between them"
            )
        yield
    return head


def _fully_connected(model: Prepared, layers: list[Layer]) -> Generator[None, None, DenseHead | None]:
    """The head of linear layers on a whole map; None where there is none."""
    card, last, pool = model.card, layers[-1], _pool(model)
    if pool is not None:
        last = [each for each in layers if each.number < pool.number and _is_leaf(model, each)][-1]
    side = (last.height, last.width) if pool is None else pool.shape[1:]
    after = [each for each in card.layers if each.number > (pool or last).number and card.reaches(each)]
    chain = [each for each in after if _is_leaf(model, each)]
    first = next((each for each in chain if each.kind == "Linear"), None)
    if first is None or first.weight[1] != last.channels * side[0] * side[1]:
        return None
    if pool is not None and (last.height, last.width) != side:
        what = f"makes a map of {side[1]}x{side[0]} of one of {last.width}x{last.height} at the model's size"
        raise NoDenseMap(
            f"its linear layers are a convolution only where its pool {pool.name} does nothing, and that {what}, "
            f"{card.width}x{card.height}; serve it with a size at which {last.name} gives {side[1]}x{side[0]}"
        )
    if last.height != last.width:
        raise NoDenseMap(f"its linear layers read a map of {last.width}x{last.height}, which is no square")
    names = tuple(each.name for each in chain if each.kind != "Flatten" and each.number >= first.number)
    gflop = 2 * sum(each.weight[0] * each.weight[1] for each in chain if each.kind == "Linear") / 1e9
    head = DenseHead(
        layer=last.name,
        channels=last.channels,
        side=last.height,
        pool=pool.name if pool else "",
        chain=names,
        gflop=gflop,
    )
    for number in (0, 1):
        if not _agrees(DenseModel(model, head), number, card.height):
            what = f"its layers {', '.join(names)} make of {last.name} one after another"
            raise NoDenseMap(f"its logits are not what {what}")
        yield
    return replace(head, least=(yield from _least(DenseModel(model, head))))


def _pool(model: Prepared) -> Layer | None:
    """The adaptive pool that makes a map of several cells, the last one on the way to the logits."""
    pools = [each for each in model.card.layers if each.kind.startswith("Adaptive") and model.card.reaches(each)]
    return next((each for each in reversed(pools) if len(each.shape) == 3 and each.shape[1] * each.shape[2] > 1), None)


def _is_leaf(model: Prepared, layer: Layer) -> bool:
    place = model.place(layer.name)
    return place.relu or not any(True for _ in model.network.get_submodule(place.module).children())


def _agrees(dense: DenseModel, number: int, height: int) -> bool:
    """Whether the head gives the network's own logits for trial picture `number`, at that height."""
    model = dense.model
    x = model.normalised(varied(height, model.card.width)[number : number + 1].to(model.device, model.dtype))
    with torch.no_grad():
        right = model.head.own_scores(model.head.run(model.network, x))
        found = dense.logits(last_map(model, dense.head.layer, x))
    if found.shape != right.shape:
        return False
    return bool((found - right).abs().max() <= TOLERANCE * right.abs().max())


def _least(dense: DenseModel) -> Generator[None, None, int]:
    """The smallest side of a picture whose last map has the head's side, found by bisection over narrow pictures."""
    card, side = dense.model.card, dense.head.side
    low, high = (
        1,
        min(card.height, card.width),
    )  # A picture of the width `high` has such a map, one of the width `low` has not.
    while high - low > 1:
        middle = (low + high) // 2
        if _map_width(dense, card.min_size, middle) == side:
            high = middle
        else:
            low = middle
        yield
    return high


def _map_width(dense: DenseModel, height: int, width: int) -> int:
    """The width of the last map of a picture; 0 for one that is too small."""
    model = dense.model
    try:
        x = model.normalised(torch.zeros(1, 3, height, width).to(model.device, model.dtype))
        found = last_map(model, dense.head.layer, x)
    except RuntimeError as fault:
        if is_out_of_memory(fault):
            raise
        return 0
    return found.shape[3]
