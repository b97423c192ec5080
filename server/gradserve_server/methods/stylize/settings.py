"""How a picture is stylized, and which layers it is compared in where the caller names none."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ...models.card import Layer, ModelCard
from ..parameters import Every, Rate, StepCount, Unit, Weight

PIXELS = "pixels"  # Stands for the picture itself among the style layers.
MAX_STYLE_STRIDE = 16  # The largest stride of a default style layer.
CONTENT_STRIDE = 8
MAX_RESOLUTIONS_IN_FULL = 3  # With no more resolutions than this, default style layers come from all.

Start = Literal["content", "noise"]
OptimizerName = Literal["adam", "lbfgs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StylizeSettings:
    """The settings; one set for all networks, since every layer's loss is relative to its target."""

    start: Start = "content"
    optimizer: OptimizerName = "adam"
    rate: Rate = 0.04
    steps: StepCount = 200
    coarse_steps: Every = 0  # Steps at half the resolution, before the others.
    style_weight: Weight = 1.0
    content_weight: Weight = 0.05
    total_variation: Weight = 0.1
    pad: Unit = 0.025  # The width of the reflected border, as a share of the shorter side.
    keep_colours: bool = False

    @property
    def total(self) -> int:
        """Steps of both resolutions."""
        return self.steps + self.coarse_steps


class LayerWeight(NamedTuple):
    """A layer, or PIXELS, and its share of the loss."""

    layer: str
    weight: float = 1.0


def default_style_layers(card: ModelCard) -> tuple[LayerWeight, ...]:
    """The pixels and the middle block at every resolution, without those that see too much of the picture at once."""
    blocks = _blocks(card)
    strides = sorted(blocks)
    strides = strides[:-1] if len(strides) > MAX_RESOLUTIONS_IN_FULL else strides
    chosen = [blocks[stride][len(blocks[stride]) // 2] for stride in strides if stride <= MAX_STYLE_STRIDE]
    return (LayerWeight(PIXELS), *(LayerWeight(layer.name) for layer in chosen))


def default_content_layers(card: ModelCard) -> tuple[LayerWeight, ...]:
    """The first block at an eighth of the resolution, or at the nearest to it that there is."""
    blocks = _blocks(card)
    if not blocks:
        return ()
    return (LayerWeight(blocks[min(blocks, key=lambda stride: abs(stride - CONTENT_STRIDE))][0].name),)


def _blocks(card: ModelCard) -> dict[float, list[Layer]]:
    """The layers by their stride, of those the least nested by name: blocks, not what is inside of them."""
    blocks: dict[float, list[Layer]] = {}
    for layer in card.layers:
        if not (layer.is_map and layer.grad_cam) or layer.kind == "relu":
            continue
        same = blocks.setdefault(2.0 ** round(math.log2(card.height / layer.height)), [])
        if same and layer.name.count(".") < same[0].name.count("."):
            same.clear()
        if not same or layer.name.count(".") == same[0].name.count("."):
            same.append(layer)
    return blocks
