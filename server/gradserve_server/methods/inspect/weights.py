"""The weights of a layer, as they stand in the model's file."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...engine.job import Steps
from ...engine.query import ModelRead

PART = 1 << 22  # The most weights that are copied to double precision at once.

if TYPE_CHECKING:  # A front-end reads this module, and has no torch to load that one with.
    from ...models.prepared import Prepared


@dataclass(frozen=True, slots=True)
class WeightsArguments:
    """Which weights: the named output channels, or the strongest; of each the strongest input channels, or all."""

    layer: str
    channels: tuple[int, ...]  # Empty for the `count` strongest.
    count: int
    inputs: int | None  # How many input channels of each are shown; None for all, in their order.
    map: tuple[int, int, int] | None  # Of a linear layer: channels, height and width of the map that it takes.
    channels_last: bool  # Whether that map lies in memory with its channels last.
    values: bool  # Whether all weights of the channels are wanted too.


@dataclass(frozen=True, slots=True)
class ShownWeights:
    """k output channels with m input channels each, of height h and width w."""

    channels: np.ndarray  # [k]
    norms: np.ndarray  # [k], of all weights of each output channel
    inputs: np.ndarray  # [k, m]
    maps: np.ndarray  # [k, m, h, w]
    largest: float  # The largest absolute weight of the layer.
    values: np.ndarray | None  # [k, inputs, h, w], or the layer's own shape.


def weights(arguments: WeightsArguments) -> Steps:
    """-> ShownWeights. It takes no pass."""
    return (yield ModelRead(lambda model: shown(model, arguments)))


def shown(model: "Prepared", arguments: WeightsArguments) -> ShownWeights:
    """What is shown of a layer's weights, outputs and inputs the strongest first, by their Euclidean norm."""
    weight = model.weights(arguments.layer)
    norms = norms_of(weight)
    channels = torch.tensor(arguments.channels, device=weight.device, dtype=torch.long)
    if not arguments.channels:
        channels = norms.argsort(descending=True, stable=True)[: arguments.count]
    chosen = weight[channels]
    if arguments.map is not None:
        chosen = _on_map(chosen, arguments.map, arguments.channels_last)
    maps = _as_maps(chosen)
    inputs = torch.arange(maps.shape[1], device=maps.device).expand(len(maps), -1)
    if arguments.inputs is not None:
        strength = norms_of(maps.flatten(0, 1)).view(maps.shape[:2])
        inputs = strength.argsort(dim=1, descending=True, stable=True)[:, : arguments.inputs]
        maps = maps.gather(1, inputs[:, :, None, None].expand(-1, -1, *maps.shape[2:]))
    return ShownWeights(
        channels.cpu().numpy(),
        norms[channels].cpu().numpy(),
        inputs.cpu().numpy(),
        maps.float().cpu().numpy(),
        max(-float(weight.min()), float(weight.max())),
        chosen.float().cpu().numpy() if arguments.values else None,
    )


def norms_of(weight: Tensor) -> Tensor:
    """[n, ...] -> the Euclidean norm of each, [n] in double, without a copy of all weights in double."""
    rows = max(1, PART // max(1, weight[0].numel()))
    return torch.cat([part.double().flatten(1).norm(dim=1) for part in weight.split(rows)])


def _on_map(weight: Tensor, shape: tuple[int, int, int], channels_last: bool) -> Tensor:
    """[k, inputs] -> [k, C, h, w]."""
    channels, height, width = shape
    if channels_last:
        return weight.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
    return weight.reshape(-1, *shape)


def _as_maps(weight: Tensor) -> Tensor:
    """[k, inputs, ...] as maps [k, m, h, w]; a linear layer's inputs lie side by side in one."""
    if weight.dim() == 2:
        return weight[:, None, None]
    return weight[:, :, None] if weight.dim() == 3 else weight
