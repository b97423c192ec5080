"""Faster operations for CPUs: convolutions' weights laid out for oneDNN once, in half precision a first layer by
sub-pixels, linear layers as one product.

A plain convolution copies its weight in every pass. Without that the bits are the same; only the gradient of a strided
convolution's few input channels is summed in another order, hence not in float32.
"""

from abc import ABC, abstractmethod
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

HALF = torch.bfloat16
PAYS = 2**16  # weights below which the copy costs nothing
FEW = 8  # input channels; kernels work on 16 at once
NO_ACTIVATION: tuple[str, list[None], str] = ("none", [], "")  # after the convolution
onednn = torch.ops.mkldnn


class How(NamedTuple):
    """How a convolution runs over its input."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> "How | None":
        """From the arguments of conv2d; None if padding has a name."""
        return None if isinstance(padding, str) else cls(_pair(stride), _pair(padding), _pair(dilation), groups)


def _pair(value: Any) -> tuple[int, int]:
    first, *rest = (value,) if isinstance(value, int) else value
    return (first, rest[0] if rest else first)


class Kernel(ABC):
    """A frozen convolution."""

    @abstractmethod
    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """[n, in, H, W] -> [n, out, H', W'], without autograd."""

    @abstractmethod
    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """The output's gradient -> the input's, of the given shape."""


class Packed(Kernel):
    """A weight [out, in, h, w] in two blocked layouts, of the forward pass and of the input's gradient.

    The layouts follow from the first input; others are computed as well, of whatever size.
    """

    def __init__(self, weight: Tensor, how: How) -> None:
        """Nothing is laid out yet."""
        self._weight, self._how = weight, how
        self._forward: Tensor | None = None
        self._backward: Tensor | None = None

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The plain convolution's kernel."""
        stride, padding, dilation, groups = self._how
        if self._forward is None:
            like = (padding, stride, dilation, groups, list(x.shape))
            self._forward = onednn._reorder_convolution_weight(self._weight, *like)
        args = (bias, padding, stride, dilation, groups, *NO_ACTIVATION)
        return onednn._convolution_pointwise(x, self._forward, *args)  # type: ignore[no-any-return]

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """A transposed convolution."""
        stride, padding, dilation, groups = self._how
        kernel = self._weight.shape[2:]
        left = [
            shape[i + 2] - ((grad.shape[i + 2] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1)
            for i in (0, 1)
        ]
        if self._backward is None:
            like = (padding, left, stride, dilation, groups, list(grad.shape))
            self._backward = onednn._reorder_convolution_transpose_weight(self._weight, *like)
        grad = grad.contiguous(memory_format=torch.channels_last)
        args = (None, padding, left, stride, dilation, groups, *NO_ACTIVATION)
        return onednn._convolution_transpose_pointwise(grad, self._backward, *args)  # type: ignore[no-any-return]


class SubPixel(Kernel):
    """A strided convolution of few channels. Its input's gradient is a plain one whose channels are a cell's pixels.

    With j = s q + r, the gradient at j is the sum over d of w[s d + r + p] g[q - d] (Shi et al. 2016, section 3).
    """

    def __init__(self, weight: Tensor, how: How) -> None:
        """weight [out, in, h, w]; stride and padding equal in both directions, no dilation."""
        self._weight, self._how = weight, how
        (stride, _), (pad, _) = how.stride, how.padding
        out, channels, *kernel = weight.shape
        self._last = [(k - 1 - pad) // stride for k in kernel]
        first = -((stride - 1 + pad) // stride)
        taps = [last - first + 1 for last in self._last]
        padded = weight.new_zeros(out, channels, *(stride * t for t in taps))
        start = -(stride * first + pad)  # of the kernel in its cells
        padded[:, :, start : start + kernel[0], start : start + kernel[1]] = weight
        cells = padded.view(out, channels, taps[0], stride, taps[1], stride).flip(2, 4)
        self._cells = cells.permute(3, 5, 1, 0, 2, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def fits(weight: Tensor, how: How) -> bool:
        """Whether it is meant for such a convolution."""
        even = how.stride[0] == how.stride[1] > 1 and how.padding[0] == how.padding[1]
        return even and how.dilation == (1, 1) and weight.shape[1] < FEW

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The plain convolution."""
        return F.conv2d(x, self._weight, bias, *self._how)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Cells of pixels [n, in * stride^2, H / stride, W / stride], put where they belong."""
        stride, taps = self._how.stride[0], self._cells.shape[2:]
        cells = [-(-side // stride) for side in shape[2:]]
        pads = [max(0, last, cells[i] + taps[i] - 1 - grad.shape[i + 2] - last) for i, last in enumerate(self._last)]
        found = F.conv2d(grad, self._cells, padding=pads).contiguous(memory_format=torch.channels_last)
        top, left = (pads[i] - self._last[i] for i in (0, 1))
        found = found[:, :, top : top + cells[0], left : left + cells[1]].permute(0, 2, 3, 1)
        across = stride * shape[1]  # numbers in a line of a cell
        if grad.dtype == HALF and across % 2 == 0:
            found, across = found.view(torch.int32), across // 2  # two at once
        lines = found.unflatten(3, (stride, across)).permute(0, 1, 3, 2, 4).reshape(shape[0], cells[0] * stride, -1)
        pixels: Tensor = lines.view(grad.dtype).unflatten(2, (-1, shape[1]))
        pixels = pixels[:, : shape[2], : shape[3]].permute(0, 3, 1, 2)
        return pixels.contiguous(memory_format=torch.channels_last)


class Kernels:
    """Kernels of a network's weights, made when first used."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, How], tuple[Tensor, Kernel | None]] = {}

    def of(self, weight: Tensor, how: How) -> Kernel | None:
        """What is better than the plain convolution, if anything. The weight is kept, and must stay as it is."""
        key = (id(weight), how)
        if key not in self._known:
            self._known[key] = (weight, kernel(weight, how))  # without the weight its id would be used again
        return self._known[key][1]

    def instead(self, x: Tensor, weight: Tensor, bias: Tensor | None, how: How) -> Kernel | None:
        """The same for an input; None as well where torch would take other kernels."""
        if not isinstance(weight, nn.Parameter) or any(t is not None and t.requires_grad for t in (weight, bias)):
            return None  # a weight that is computed anew in every pass is not one to keep
        if x.dim() != 4 or x.dtype != weight.dtype or not x.is_contiguous(memory_format=torch.channels_last):
            return None
        found = self.of(weight, how)
        return found if found is not None and onednn_takes(x, weight, bias, how) else None


def kernel(weight: Tensor, how: How) -> Kernel | None:
    """On a CPU: for few input channels, or for a weight that is worth laying out."""
    if weight.device.type != "cpu" or weight.dtype not in (HALF, torch.float32) or how.groups != 1 or not works():
        return None
    if weight.dtype == HALF and SubPixel.fits(weight, how):
        return SubPixel(weight, how)
    return Packed(weight, how) if weight.numel() >= PAYS else None


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

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self._kernels = kernels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replaces what it can."""
        if func in PRODUCTS:
            args = _whole(args, PRODUCTS[func])
        replaced = self._conv2d(*args, **(kwargs or {})) if func is torch.conv2d else None
        return func(*args, **(kwargs or {})) if replaced is None else replaced

    def _conv2d(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        how = How.of(*args, **kwargs)
        found = None if how is None else self._kernels.instead(input, weight, bias, how)
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
def works() -> bool:
    """Whether this build of torch has the operations, and they give what the plain ones give, bit for bit."""
    try:
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False):
            return _agrees(HALF) and _agrees(torch.float32)
    except (AttributeError, RuntimeError):  # private operations: another build of torch may lack or change them
        return False


def _agrees(dtype: torch.dtype) -> bool:
    """On one convolution."""
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (
        torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((2, 32, 9, 9), (48, 32, 3, 3), (2, 48, 5, 5))
    )
    how = How((2, 2), (1, 1), (1, 1), 1)
    packed = Packed(weight, how)
    with torch.enable_grad():
        plain = F.conv2d(x.requires_grad_(), weight, None, *how)
    (by_input,) = torch.autograd.grad(plain, x, grad)
    with torch.no_grad():
        same = torch.equal(packed.forward(x, None), plain)
        return (
            same and torch.equal(packed.input_gradient(grad, x.shape), by_input) and onednn_takes(x, weight, None, how)
        )


def onednn_takes(x: Tensor, weight: Tensor, bias: Tensor | None, how: How) -> bool:
    """Whether torch takes oneDNN for this convolution; its other kernels round otherwise."""
    stride, padding, dilation, groups = how
    backend = torch._C._select_conv_backend(x, weight, bias, stride, padding, dilation, False, (0, 0), groups)
    return str(backend.name) == "Mkldnn"
