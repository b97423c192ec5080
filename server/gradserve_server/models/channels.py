"""Networks that take one channel: pictures are RGB everywhere else, and are turned into grey before the network."""

import contextlib

import torch
from torch import Tensor, nn

from .loading import Source
from .outputs import run

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue in grey, by ITU-R BT.601 as in PIL's "L"


def grey(images: Tensor) -> Tensor:
    """[N, 3, H, W] -> [N, 1, H, W], differentiable and not rounded."""
    weights = torch.tensor(GREY_WEIGHTS, device=images.device, dtype=images.dtype).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def advice(source: Source, like: Tensor) -> str:
    """What to do where a first pass failed because the network takes another number of channels, or nothing.

    `like`: a tensor on the network's device and in its number format.
    """
    other = 1 if source.channels == 3 else 3
    if not _takes(source.network, like.new_full((2, other, source.height, source.width), 0.5)):
        return ""
    if other == 3:
        return "its network takes pictures of three channels: leave channels = 1 out of its entry"
    return (
        "its network takes pictures of one channel, not of three: write channels = 1 into its entry, "
        "with mean and std of one number each"
    )


def _takes(network: nn.Module, images: Tensor) -> bool:
    with contextlib.suppress(Exception), torch.no_grad():
        run(network, images)
        return True
    return False
