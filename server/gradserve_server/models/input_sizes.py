"""Which images a network takes: whether a pass over them gives logits, and of which sizes they may be."""

import contextlib

import torch
from torch import Tensor, nn

from .outputs import run

MIN_SIDE = 8  # Shorter sides in pixels are not tried.


def takes(network: nn.Module, images: Tensor) -> bool:
    """Whether the network gives logits for these normalised images."""
    with contextlib.suppress(Exception), torch.no_grad():
        run(network, images)
        return True
    return False


def takes_size(network: nn.Module, example: Tensor, height: int, width: int) -> bool:
    """Whether the network gives logits for `example` resized to that size."""
    with contextlib.suppress(Exception):
        return takes(network, nn.functional.interpolate(example, (height, width)))
    return False


def find_sizes(network: nn.Module, example: Tensor) -> tuple[bool, int]:
    """Whether the network takes other sizes than the example's, and the smallest side that it takes, by halving."""
    height, width = example.shape[2:]
    if not takes_size(network, example, height + height // 4, width):
        return False, min(height, width)
    smallest = min(height, width)
    while smallest // 2 >= MIN_SIDE and takes_size(network, example, smallest // 2, smallest // 2):
        smallest //= 2
    return True, smallest
