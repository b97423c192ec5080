"""Which images a network takes: whether a pass over them gives logits, and of which sizes they may be."""

import contextlib

import torch
from torch import Tensor, nn

from .outputs import run

MIN_SIDE = 8  # Shorter sides in pixels are not tried.


def takes(network: nn.Module, images: Tensor) -> bool:
    """Whether the network gives logits for these normalised images."""
    return _logits(network, images) is not None


def _logits(network: nn.Module, images: Tensor) -> Tensor | None:
    """What the network gives for them, or None where it fails."""
    with contextlib.suppress(Exception), torch.no_grad():
        return run(network, images)
    return None


def takes_size(network: nn.Module, example: Tensor, height: int, width: int) -> bool:
    """Whether the network gives logits for `example` resized to that size."""
    with contextlib.suppress(Exception):
        return takes(network, nn.functional.interpolate(example, (height, width)))
    return False


def find_sizes(network: nn.Module, example: Tensor) -> tuple[bool, int]:
    """Whether the network takes other sizes than the example's, and the smallest side that it takes, by halving.

    A network that answers the example otherwise after another size has changed settings of its own, as the Swin of
    Transformers does with its window. Its settings are put back, and it counts as one that takes one size alone.
    """
    settings, first = _settings(network), _logits(network, example)
    found = _try_sizes(network, example)
    again = _logits(network, example)
    if first is None or (again is not None and torch.allclose(first, again, rtol=1e-3, atol=1e-6, equal_nan=True)):
        return found
    for module, values in settings:
        module.__dict__.update(values)
    return False, min(example.shape[2:])


def _settings(network: nn.Module) -> list[tuple[nn.Module, dict[str, object]]]:
    """The plain values that modules have as attributes."""
    kinds = (int, float, str, tuple, type(None))
    return [(m, {name: each for name, each in vars(m).items() if isinstance(each, kinds)}) for m in network.modules()]


def _try_sizes(network: nn.Module, example: Tensor) -> tuple[bool, int]:
    height, width = example.shape[2:]
    if not takes_size(network, example, height + height // 4, width):
        return False, min(height, width)
    smallest = min(height, width)
    while smallest // 2 >= MIN_SIDE and takes_size(network, example, smallest // 2, smallest // 2):
        smallest //= 2
    return True, smallest
