"""Whether a network writes over its own parameters or buffers in a forward, so that answers depend on earlier ones."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from .behaviour import Unservable
from .checkpoints import shown

# Largest change of a tensor's sum by rounding, as a share of its size; some networks normalise a tensor in every pass.
MAX_STATE_CHANGE = 1e-6
WRITES = (
    "its forward writes over its own {names}, even in eval mode, so that an image's logits depend on the images before "
    "it; let it do that only if self.training, and let the builder return the network with its final values"
)


class State(NamedTuple):
    """Numbers by which a change of a parameter or buffer shows."""

    shape: torch.Size
    total: float
    size: float  # The sum of its absolute values.


def state_of(network: nn.Module) -> dict[str, State]:
    """The state of every parameter and buffer of floating numbers, by name."""
    tensors = [*network.named_parameters(), *network.named_buffers()]
    plain = [
        (name, t.detach()) for name, t in tensors if not isinstance(t, UninitializedParameter | UninitializedBuffer)
    ]
    return {n: State(t.shape, *_sums(t)) for n, t in plain if _has_floats(t)}


def check_unwritten(network: nn.Module, before: Mapping[str, State]) -> None:
    """Raises Unservable where the state has changed. A tensor that has another shape now is a cache, and may change."""
    after = state_of(network)
    names = [name for name, old in before.items() if name in after and _rewritten(old, after[name])]
    if names:
        raise Unservable(WRITES.format(names=shown(names)))


def _sums(tensor: Tensor) -> tuple[float, float]:
    return float(tensor.sum(dtype=torch.float64)), float(tensor.abs().sum(dtype=torch.float64))


def _has_floats(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided and tensor.numel() > 0


def _rewritten(old: State, new: State) -> bool:
    return old.shape == new.shape and abs(old.total - new.total) > MAX_STATE_CHANGE * old.size
