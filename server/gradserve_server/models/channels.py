"""Networks that take one channel: pictures are RGB everywhere else, and are turned into grey before the network."""

import torch
from torch import Tensor

from .input_sizes import takes
from .loading import Source

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # Weights of red, green and blue, by ITU-R BT.601 as in PIL's "L".


def grey(images: Tensor) -> Tensor:
    """Grey images [N, 1, H, W] from RGB ones [N, 3, H, W]; differentiable and not rounded."""
    weights = torch.tensor(GREY_WEIGHTS, device=images.device, dtype=images.dtype).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def advice(source: Source, like: Tensor) -> str:
    """Advice where a first pass failed because the network takes another number of channels; otherwise empty.

    `like`: a tensor on the network's device and in its number format.
    """
    other = 1 if source.channels == 3 else 3
    if not takes(source.network, like.new_full((2, other, source.height, source.width), 0.5)):
        return ""
    if other == 3:
        return "its network takes pictures of three channels: leave channels = 1 out of its entry"
    return (
        "its network takes pictures of one channel, not of three: write channels = 1 into its entry, "
        "with mean and std of one number each"
    )
