"""Folding BatchNorm into the convolution before it, found by the order of execution and never by names."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .plain import is_plain
from .uses import Uses

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
FAINT = 1e-30  # Weights below it lose digits in float32, of which the smallest number is 1e-38.


class FoldedBatchNorm(nn.Identity):
    """What a folded BatchNorm becomes: it hands its input on, wherever it stands and whatever it is called."""

    kind: str  # The class that it had.
    scale: Tensor  # [C], by which the weights of each output channel were multiplied; float64.
    faint: Tensor  # Numbers of the channels whose weights that left too small to be told, [k].
    originals: Tensor  # Their weights before, [k, ...].


def foldable(network: nn.Module, example: Tensor) -> dict[str, str]:
    """{convolution: BatchNorm} for the pairs that may become one convolution.

    Both are plain modules that run once, the BatchNorm's input is the convolution's output, which nothing else uses,
    and nothing else uses their weights.
    """
    uses, calls, pairs = Uses(), Counter[str](), []
    outputs: dict[int, tuple[str, Tensor]] = {}

    def hook(name: str) -> Any:
        def on_output(module: nn.Module, args: Any, out: Any) -> None:
            calls[name] += 1
            if isinstance(module, CONVOLUTIONS):
                outputs[id(out)] = (name, out)
                uses.watch(out)
            elif args and id(args[0]) in outputs:
                pairs.append((*outputs[id(args[0])], name))

        return on_output

    handles = []
    modules = dict(network.named_modules())
    for name, module in modules.items():
        if is_plain(module, *CONVOLUTIONS) or (is_plain(module, *BATCH_NORMS) and _is_settled(module)):
            uses.watch(*_weights(module))
            handles.append(module.register_forward_hook(hook(name)))
    try:
        with torch.no_grad(), uses:
            network(example.clone())
    finally:
        for handle in handles:
            handle.remove()
    return {
        conv: norm
        for conv, out, norm in pairs
        if calls[conv] == calls[norm] == 1 and uses.once(out, *_weights(modules[conv]), *_weights(modules[norm]))
    }


def _is_settled(norm: Any) -> bool:
    """Whether a BatchNorm always normalises by the same numbers."""
    return not norm.training and norm.running_mean is not None and norm.running_var is not None


def _weights(module: Any) -> tuple[Tensor | None, ...]:
    """The tensors that a convolution or a BatchNorm computes with."""
    return (module.weight, module.bias, getattr(module, "running_mean", None), getattr(module, "running_var", None))


def fold_batch_norms(network: nn.Module, pairs: Iterable[tuple[str, str]]) -> None:
    """Folds these pairs (convolution, BatchNorm) in float64; the BatchNorm's name stays."""
    for conv_name, norm_name in pairs:
        conv: Any = network.get_submodule(conv_name)
        norm: Any = network.get_submodule(norm_name)
        dtype = conv.weight.dtype
        wide: list[Any] = [
            None if t is None else t.detach().double() for t in (conv.weight, conv.bias, norm.weight, norm.bias)
        ]
        mean, variance = norm.running_mean.double(), norm.running_var.double()
        weight, bias = fuse_conv_bn_weights(wide[0], wide[1], mean, variance, norm.eps, wide[2], wide[3])
        for name, value in (("weight", weight), ("bias", bias)):
            setattr(conv, name, nn.Parameter(value.detach().to(dtype), requires_grad=False))
        scale = torch.rsqrt(variance + norm.eps) * (1 if wide[2] is None else wide[2])
        _disable(norm)
        norm.scale, norm.faint = scale, (weight.flatten(1).abs().amax(1) < FAINT).nonzero()[:, 0]
        norm.originals = wide[0][norm.faint].to(dtype)


def unfolded(weight: Tensor, norm: FoldedBatchNorm) -> Tensor:
    """A convolution's weights before that BatchNorm was folded into them, up to one rounding."""
    original = weight.detach().double() / norm.scale.view(-1, *[1] * (weight.dim() - 1))
    original[norm.faint] = norm.originals.to(original)
    return original.to(weight.dtype)


def _disable(norm: nn.Module) -> None:
    """Makes the module itself an identity, since others may hold it too, under other names or in lists of their own."""
    norm._parameters.clear()
    norm._buffers.clear()
    kind = type(norm).__name__
    norm.__class__ = FoldedBatchNorm
    norm.kind = kind  # type: ignore[assignment]
