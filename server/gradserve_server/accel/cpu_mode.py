"""Faster operations for CPUs: convolutions by the kernels of `convolutions.py`, linear layers as one product.

A plain convolution copies its weight in every pass. Without that the bits are the same; the other kernels, which may
sum in another order, are for half precision alone.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from .convolutions import HALF, ConvParams, Kernel, Packed, Pointwise, SideBySide, SubPixel

MIN_PACKED_WEIGHTS = 2**16  # weights below which the copy costs nothing


class KernelCache:
    """Kernels of a network's weights, made when first used."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ConvParams], tuple[Tensor, Kernel | None]] = {}

    def of(self, weight: Tensor, how: ConvParams) -> Kernel | None:
        """What is better than the plain convolution, if anything. The weight is kept, and must stay as it is."""
        key = (id(weight), how)
        if key not in self._known:
            self._known[key] = (weight, kernel(weight, how))  # without the weight its id would be used again
        return self._known[key][1]

    def lookup(self, x: Tensor, weight: Tensor, bias: Tensor | None, how: ConvParams) -> Kernel | None:
        """The same for an input; None as well where torch would take other kernels."""
        if not isinstance(weight, nn.Parameter) or any(t is not None and t.requires_grad for t in (weight, bias)):
            return None  # a weight that is computed anew in every pass is not one to keep
        if x.dim() != 4 or x.dtype != weight.dtype or not x.is_contiguous(memory_format=torch.channels_last):
            return None
        found = self.of(weight, how)
        return found if found is not None and onednn_takes(x, weight, bias, how) else None


def kernel(weight: Tensor, how: ConvParams) -> Kernel | None:
    """On a CPU: in half precision what its shape calls for; else the packed one, for a weight that is worth it."""
    if weight.device.type != "cpu" or weight.dtype not in (HALF, torch.float32) or how.groups != 1:
        return None
    if not available(weight.dtype):
        return None
    for kind in (SubPixel, Pointwise, SideBySide) if weight.dtype == HALF else ():
        if kind.fits(weight, how):
            return kind(weight, how)
    return Packed(weight, how) if weight.numel() >= MIN_PACKED_WEIGHTS else None


class _Convolution(torch.autograd.Function):
    """A convolution, differentiable by its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, kernel: Kernel) -> Tensor:
        """Of the input only its shape is needed later."""
        ctx.kernel, ctx.shape = kernel, x.shape
        return kernel.forward(x, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """By the input."""
        return ctx.kernel.input_gradient(grad, ctx.shape), None, None


PRODUCTS = {F.linear: 1, F.multi_head_attention_forward: 3}  # how many of their arguments are multiplied by a weight


class FastOperations(TorchFunctionMode):
    """Computes a network's convolutions by kernels, where there are any, linear layers in one piece, all else as it is.

    Kernels' results can be differentiated once, backwards; forward-mode differentiation takes them for constants.
    """

    def __init__(self, kernels: KernelCache) -> None:
        super().__init__()
        self._kernels = kernels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replaces what it can."""
        if func in PRODUCTS:
            args = _whole(args, PRODUCTS[func])
        replaced = self._conv2d(*args, **(kwargs or {})) if func is torch.conv2d else None
        return func(*args, **(kwargs or {})) if replaced is None else replaced

    def _conv2d(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        how = ConvParams.of(*args, **kwargs)
        found = None if how is None else self._kernels.lookup(input, weight, bias, how)
        if found is None:
            return None
        if torch.is_grad_enabled() and input.requires_grad:
            return _Convolution.apply(input, bias, found)
        return found.forward(input, bias)


def _whole(args: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """The first `count` in memory of their own: of views torch multiplies item by item, with a copy of the weight each.

    What is one tensor stays one, since attention looks at that.
    """
    whole = {id(x): x.contiguous() for x in args[:count] if x.dim() > 2}
    return (*(whole.get(id(x), x) for x in args[:count]), *args[count:])


@cache
def available(dtype: torch.dtype) -> bool:
    """Whether the operations are there for this type and give what the plain ones give, bit for bit.

    Another build of torch may lack or change these private operations, and another processor has other kernels.
    """
    try:
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False):
            return _agrees(dtype)
    except (AttributeError, RuntimeError):
        return False


def _agrees(dtype: torch.dtype) -> bool:
    """On one convolution."""
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (
        torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((2, 32, 9, 9), (48, 32, 3, 3), (2, 48, 5, 5))
    )
    how = ConvParams((2, 2), (1, 1), (1, 1), 1)
    packed = Packed(weight, how)
    with torch.enable_grad():
        plain = F.conv2d(x.requires_grad_(), weight, None, *how)
    (by_input,) = torch.autograd.grad(plain, x, grad)
    with torch.no_grad():
        same = torch.equal(packed.forward(x, None), plain)
        return (
            same and torch.equal(packed.input_gradient(grad, x.shape), by_input) and onednn_takes(x, weight, None, how)
        )


def onednn_takes(x: Tensor, weight: Tensor, bias: Tensor | None, how: ConvParams) -> bool:
    """Whether torch takes oneDNN for this convolution; its other kernels round otherwise."""
    stride, padding, dilation, groups = how
    backend = torch._C._select_conv_backend(x, weight, bias, stride, padding, dilation, False, (0, 0), groups)
    return str(backend.name) == "Mkldnn"
