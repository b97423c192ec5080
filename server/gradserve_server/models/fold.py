"""Folding BatchNorm into the convolution before it, found by the order of execution and never by names."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class FoldedBatchNorm(nn.Identity):
    """Stands where a folded BatchNorm was, under its name."""


class _Uses(TorchFunctionMode):
    """Counts the torch functions that take each watched tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept, or its id would be used again
        self.count: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts and calls."""
        name = getattr(func, "__name__", "")
        if name not in ("__get__", "size", "dim"):
            for tensor in _tensors((args, kwargs or {})):
                if id(tensor) in self.watched:
                    self.count[self.watched[id(tensor)][0]] += 1
        return func(*args, **(kwargs or {}))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def foldable(network: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Pairs (convolution, BatchNorm): the BatchNorm's input is that convolution's output, used nowhere else."""
    uses, pairs, calls = _Uses(), [], Counter[str]()
    handles = []

    def hook(name: str) -> Any:
        def on_output(module: nn.Module, args: Any, out: Any) -> None:
            calls[name] += 1
            if isinstance(module, CONVOLUTIONS):
                uses.watched[id(out)] = (name, out)
            elif args and id(args[0]) in uses.watched:
                pairs.append((uses.watched[id(args[0])][0], name))

        return on_output

    for name, module in network.named_modules():
        if isinstance(module, CONVOLUTIONS + BATCH_NORMS):
            handles.append(module.register_forward_hook(hook(name)))
    try:
        with torch.no_grad(), uses:
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return [(c, b) for c, b in pairs if uses.count[c] == 1 and calls[c] == calls[b] == 1]


def fold_batch_norms(network: nn.Module, example: Tensor) -> dict[str, str]:
    """Folds in float64 and returns {convolution: BatchNorm}; the BatchNorm's name stays."""
    folded = {}
    for conv_name, norm_name in foldable(network, example):
        conv: Any = network.get_submodule(conv_name)
        norm: Any = network.get_submodule(norm_name)
        dtype = conv.weight.dtype
        if norm.running_mean is None or norm.running_var is None:
            continue
        wide: list[Any] = [
            None if t is None else t.detach().double() for t in (conv.weight, conv.bias, norm.weight, norm.bias)
        ]
        mean, variance = norm.running_mean.double(), norm.running_var.double()
        weight, bias = fuse_conv_bn_weights(wide[0], wide[1], mean, variance, norm.eps, wide[2], wide[3])
        for name, value in (("weight", weight), ("bias", bias)):
            setattr(conv, name, nn.Parameter(value.detach().to(dtype), requires_grad=False))
        parent, _, leaf = norm_name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, FoldedBatchNorm())
        folded[conv_name] = norm_name
    return folded
