"""The activation maps of a layer: those of named channels, or the strongest."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...engine.job import Steps
from ...engine.query import Query, Tap

ChannelOrder = Literal["mean", "max"]


@dataclass(frozen=True, slots=True)
class ActivationsArguments:
    """Which maps: of the named channels, or of the `count` strongest."""

    layer: str
    channels: tuple[int, ...]
    count: int
    order: ChannelOrder


@dataclass(frozen=True, slots=True)
class ShownMaps:
    """The maps of k channels, as the layer gives them."""

    channels: np.ndarray  # [k]
    means: np.ndarray  # [k]
    maxima: np.ndarray  # [k]
    maps: np.ndarray  # [k, h, w]


def activations(x: Tensor, arguments: ActivationsArguments) -> Steps:
    """[1, 3, H, W] -> ShownMaps. The forward ends at the layer."""
    answer = yield Query(x, taps=(Tap(arguments.layer),))
    maps = answer.acts[0][0]
    means, maxima = maps.double().mean((1, 2)), maps.amax((1, 2))
    channels = torch.tensor(arguments.channels, device=maps.device, dtype=torch.long)
    if not arguments.channels:
        strength = means if arguments.order == "mean" else maxima
        channels = strength.argsort(descending=True, stable=True)[: arguments.count]
    chosen = (means[channels], maxima[channels], maps[channels].float())
    return ShownMaps(channels.cpu().numpy(), *(each.cpu().numpy() for each in chosen))
