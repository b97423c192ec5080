"""A pass in which one layer has its weights' values in another order, while the served network stays as it is."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def permuted(network: nn.Module, layer: str) -> Iterator[None]:
    """Inside, that layer gives what it would with the values of each of its own parameters permuted.

    The permutations are always the same. What the layer gives is computed anew by a copy of the module, which shares
    all but its parameters with it and is gone with the pass. To be entered before other hooks of the layer are set.
    """
    module = network.get_submodule(layer)
    twin = copy.copy(module)
    twin._parameters = {
        name: None if value is None else _shuffled(value, seed)  # type: ignore[misc]
        for seed, (name, value) in enumerate(module._parameters.items())
    }

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        return twin.forward(*args, **kwargs)

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _shuffled(values: Tensor, seed: int) -> Tensor:
    """The values in a fixed random order, in a tensor of the same shape."""
    order = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(seed))
    return values.detach().flatten()[order.to(values.device)].view(values.shape)
