"""Casting a network to another number format."""

import torch
from torch import Tensor, nn

MAX_PARAMETERS_IN_DOUBLE = 200_000_000  # Largest network that is copied to float64.


def cast(network: nn.Module, dtype: torch.dtype, device: torch.device | None = None) -> nn.Module:
    """Casts the real floating numbers of a network in place; integers and complex numbers keep their format.

    torch's own `network.to(dtype)` would drop the imaginary part of complex weights.
    """

    def cast_tensor(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    network._apply(cast_tensor)
    return network
