"""Faster operations for CPUs: convolutions by the kernels of `convolutions.py`, linear layers as one product.

A plain convolution copies its weight into oneDNN's layout in every pass. `Packed` keeps that copy, and gives the same
bits. The other kernels may sum in another order, and serve half precision alone.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from .convolutions import HALF, ConvParams, Kernel, Packed, Pointwise, SideBySide, SubPixel

MIN_PACKED_WEIGHTS = 2**16  # Fewest weights of which a copy in every pass costs time.


class KernelCache:
    """The kernels of a network's convolutions, each made when it is first used."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ConvParams], tuple[Tensor, Kernel | None]] = {}

    def of(self, weight: Tensor, how: ConvParams) -> Kernel | None:
        """The kernel that replaces the plain convolution, if there is one. The weight must not change any more."""
        key = (id(weight), how)
        if key not in self._known:
            self._known[key] = (weight, kernel(weight, how))  # Keeping the weight keeps its id from being used again.
        return self._known[key][1]

    def lookup(self, x: Tensor, weight: Tensor, bias: Tensor | None, how: ConvParams) -> Kernel | None:
        """The same for a given input; None also where torch would not take oneDNN's kernels for it."""
        if not isinstance(weight, nn.Parameter) or any(t is not None and t.requires_grad for t in (weight, bias)):
            return None  # A weight that is computed anew in every pass is not worth keeping.
        if x.dim() != 4 or x.dtype != weight.dtype or not x.is_contiguous(memory_format=torch.channels_last):
            return None
        known = self.of(weight, how)
        return known if known is not None and onednn_takes(x, weight, bias, how) else None


def kernel(weight: Tensor, how: ConvParams) -> Kernel | None:
    """A kernel for a convolution on a CPU: in half precision by its shape, otherwise `Packed` for a large weight."""
    if weight.device.type != "cpu" or weight.dtype not in (HALF, torch.float32) or how.groups != 1:
        return None
    if not available(weight.dtype):
        return None
    for kind in (SubPixel, Pointwise, SideBySide) if weight.dtype == HALF else ():
        if kind.fits(weight, how):
            return kind(weight, how)
    return Packed(weight, how) if weight.numel() >= MIN_PACKED_WEIGHTS else None


class _Convolution(torch.autograd.Function):
    """A convolution by a kernel, which can be differentiated by its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, kernel: Kernel) -> Tensor:
        """Runs the kernel; the backward pass needs nothing but the shape of the input."""
        ctx.kernel, ctx.shape = kernel, x.shape
        return kernel.forward(x, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradient by the input."""
        return ctx.kernel.input_gradient(grad, ctx.shape), None, None


PRODUCTS = {F.linear: 1, F.multi_head_attention_forward: 3}  # How many leading arguments are multiplied by a weight.


class FastOperations(TorchFunctionMode):
    """Runs convolutions by kernels where there are any, and linear layers as one product; leaves all else as it is.

    The results of kernels can be differentiated backwards once. Forward-mode differentiation takes them for constants.
    """

    def __init__(self, kernels: KernelCache) -> None:
        super().__init__()
        self._kernels = kernels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the faster operation, if there is one."""
        if func in PRODUCTS:
            args = _make_contiguous(args, PRODUCTS[func])
        replaced = self._conv2d(*args, **(kwargs or {})) if func is torch.conv2d else None
        return func(*args, **(kwargs or {})) if replaced is None else replaced

    def _conv2d(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        how = ConvParams.of(*args, **kwargs)
        kernel = None if how is None else self._kernels.lookup(input, weight, bias, how)
        if kernel is None:
            return None
        if torch.is_grad_enabled() and input.requires_grad:
            return _Convolution.apply(input, bias, kernel)
        return kernel.forward(input, bias)


def _make_contiguous(args: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """Makes the first `count` arguments contiguous: others torch multiplies item by item, copying the weight each time.

    An argument that stands several times stays one tensor, since attention checks that.
    """
    contiguous = {id(x): x.contiguous() for x in args[:count] if x.dim() > 2}
    return (*(contiguous.get(id(x), x) for x in args[:count]), *args[count:])


@cache
def available(dtype: torch.dtype) -> bool:
    """Whether oneDNN's operations exist for this type and give the bits of the plain convolution.

    They are private to torch: another build may lack or change them, and another processor has other kernels.
    """
    try:
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False):
            return _agrees(dtype)
    except (AttributeError, RuntimeError):
        return False


def _agrees(dtype: torch.dtype) -> bool:
    """Compares both on one convolution, forward and backward."""
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
    """Whether torch itself would take oneDNN for this convolution; its other kernels round in other ways."""
    stride, padding, dilation, groups = how
    backend = torch._C._select_conv_backend(x, weight, bias, stride, padding, dilation, False, (0, 0), groups)
    return str(backend.name) == "Mkldnn"
