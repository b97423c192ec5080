"""Convolutions with frozen weights in oneDNN's own layouts: forward passes, and gradients by the input."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = torch.bfloat16
MAX_SUBPIXEL_CHANNELS = 8  # Most input channels for SubPixel; oneDNN's kernels work on 16 at once.
MIN_CACHE_FILLING_WEIGHTS = 2**20  # Fewest weights that fill a core's cache.
MAX_NARROW_COLUMNS = 8  # Most columns of a narrow map; oneDNN's kernels work on 16 at once.
TRIAL_IMAGES = 3  # An image of NaN between two others.
NO_ACTIVATION: tuple[str, list[None], str] = ("none", [], "")  # Arguments that leave the output as it is.
onednn = torch.ops.mkldnn


class ConvParams(NamedTuple):
    """How a convolution runs over its input."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> "ConvParams | None":
        """From the arguments of conv2d; None if padding has a name."""
        return None if isinstance(padding, str) else cls(_pair(stride), _pair(padding), _pair(dilation), groups)


def _pair(value: Any) -> tuple[int, int]:
    first, *rest = (value,) if isinstance(value, int) else value
    return (first, rest[0] if rest else first)


class Kernel(ABC):
    """A frozen convolution."""

    @abstractmethod
    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The output [n, out, H', W'] for x [n, in, H, W], without autograd."""

    @abstractmethod
    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """The gradient by the input, of that shape, from the gradient by the output."""


class Packed(Kernel):
    """A weight [out, in, h, w] in two blocked layouts, for the forward pass and for the gradient by the input.

    The layouts are chosen for the first input's size, and serve inputs of every other size too.
    """

    def __init__(self, weight: Tensor, how: ConvParams) -> None:
        """Keeps the weight; each layout is made when it is first used."""
        self._weight, self._how = weight, how
        self._forward: Tensor | None = None
        self._backward: Tensor | None = None

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Runs the same kernel as a plain convolution."""
        stride, padding, dilation, groups = self._how
        if self._forward is None:
            like = (padding, stride, dilation, groups, list(x.shape))
            self._forward = onednn._reorder_convolution_weight(self._weight, *like)
        args = (bias, padding, stride, dilation, groups, *NO_ACTIVATION)
        return onednn._convolution_pointwise(x, self._forward, *args)  # type: ignore[no-any-return]

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Runs a transposed convolution."""
        stride, padding, dilation, groups = self._how
        kernel = self._weight.shape[2:]
        output_padding = [
            shape[i + 2] - ((grad.shape[i + 2] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1)
            for i in (0, 1)
        ]
        if self._backward is None:
            like = (padding, output_padding, stride, dilation, groups, list(grad.shape))
            self._backward = onednn._reorder_convolution_transpose_weight(self._weight, *like)
        grad = grad.contiguous(memory_format=torch.channels_last)
        args = (None, padding, output_padding, stride, dilation, groups, *NO_ACTIVATION)
        return onednn._convolution_transpose_pointwise(grad, self._backward, *args)  # type: ignore[no-any-return]


class SideBySide(Packed):
    """A large weight over small maps: a batch's images lie side by side in one wide image, with zeros between them.

    oneDNN's kernels read the weight once for each image, and a weight larger than a core's cache is slow to read. A
    wide image may be summed in another order; with a stride some CPUs do so.

    A NaN must not spread to the neighbours. It does where a kernel reads beyond its window: bfloat16 instructions take
    input channels in pairs, and if their number is odd, the last is paired with the next pixel's first. That one is
    multiplied by zero, but zero times NaN is NaN. So every size is tried before it is used.
    """

    def __init__(self, weight: Tensor, how: ConvParams) -> None:
        """Keeps the weight; each size is tried when it first comes."""
        super().__init__(weight, how)
        self._separates: dict[tuple[str, int, int], bool] = {}  # By direction, height and width of the input.

    @staticmethod
    def fits(weight: Tensor, how: ConvParams) -> bool:
        """Whether the weight is large, and the padding keeps the width (divided by the stride)."""
        reach = (weight.shape[3] - 1) * how.dilation[1]
        return weight.numel() >= MIN_CACHE_FILLING_WEIGHTS and reach == 2 * how.padding[1] > 0

    def _columns(self, width: int) -> tuple[int, int, int]:
        """Columns of an image's output; from image to image in the wide input; from image to image in its output."""
        stride, padding = self._how.stride[1], self._how.padding[1]
        step = -(-(width + padding) // stride)
        return -(-width // stride), step * stride, step

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Runs over the wide image where that is faster and keeps NaN in its image."""
        key = ("forward", x.shape[2], x.shape[3])
        if _is_faster_wide(len(x), self._columns(x.shape[3])[0]) and self._keeps_nan_apart(key, x, self._wide_forward):
            return self._wide_forward(x, bias)
        return super().forward(x, bias)

    def _wide_forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        out, step_in, step_out = self._columns(x.shape[3])
        return _apart(super().forward(_abreast(x, step_in), bias), step_out, out)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Runs over the wide gradient where that is faster and keeps NaN in its image."""

        def run(grad: Tensor) -> Tensor:
            return self._wide_input_gradient(grad, torch.Size((len(grad), *shape[1:])))

        key = ("input gradient", shape[2], shape[3])
        if _is_faster_wide(len(grad), self._columns(shape[3])[0]) and self._keeps_nan_apart(key, grad, run):
            return run(grad)
        return super().input_gradient(grad, shape)

    def _wide_input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        count, channels, height, width = shape
        _, step_in, step_out = self._columns(width)
        wide = torch.Size((1, channels, height, count * step_in))
        return _apart(super().input_gradient(_abreast(grad, step_out), wide), step_in, width)

    def _keeps_nan_apart(self, key: tuple[str, int, int], like: Tensor, run: Callable[[Tensor], Tensor]) -> bool:
        """Whether `run` keeps NaN in its image, for images of the size of `like`; tried once for each `key`."""
        if key not in self._separates:
            images = torch.zeros((TRIAL_IMAGES, *like.shape[1:]), dtype=like.dtype)
            images[TRIAL_IMAGES // 2] = torch.nan
            with torch.no_grad():
                outputs = run(images.contiguous(memory_format=torch.channels_last))
            self._separates[key] = bool((outputs.isnan().flatten(1).any(1) == images.isnan().flatten(1).any(1)).all())
        return self._separates[key]


def _is_faster_wide(count: int, columns: int) -> bool:
    """Whether so many images with so many output columns are computed faster as one wide image."""
    return count > 1 and columns <= MAX_NARROW_COLUMNS


def _abreast(x: Tensor, step: int) -> Tensor:
    """Images [n, c, H, W] as one wide image [1, c, H, n * step], with zeros between them."""
    return F.pad(x.permute(2, 0, 3, 1), (0, 0, 0, step - x.shape[3])).flatten(1, 2).permute(2, 0, 1).unsqueeze(0)


def _apart(wide: Tensor, step: int, width: int) -> Tensor:
    """The images [n, c, H, width] in a wide one [1, c, H, n * step]."""
    images: Tensor = wide[0].unflatten(2, (-1, step))[..., :width].permute(2, 0, 1, 3)
    return images.clone(memory_format=torch.channels_last)  # This is always a copy, since a network may write over it.


class Pointwise(Packed):
    """A strided 1x1 convolution. It reads one pixel of each stride, and the gradient by all other pixels is zero."""

    @staticmethod
    def fits(weight: Tensor, how: ConvParams) -> bool:
        """Whether the kernel is 1x1 with a stride and without padding."""
        return weight.shape[2:] == (1, 1) and how.stride != (1, 1) and how.padding == (0, 0)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Computes one product for the pixels that the kernel reads, and puts it among zeros."""
        pixels = grad.permute(0, 2, 3, 1).flatten(0, 2) @ self._weight.flatten(1)
        pixels = pixels.view(len(grad), *grad.shape[2:], -1).permute(0, 3, 1, 2)
        zeros = torch.zeros((len(pixels), *shape[2:], shape[1]), dtype=pixels.dtype, device=pixels.device)
        by_input = zeros.permute(0, 3, 1, 2)
        by_input[:, :, :: self._how.stride[0], :: self._how.stride[1]] = pixels
        return by_input


class SubPixel(Kernel):
    """A strided convolution of few channels, as in a network's first layer.

    Cut the input into cells of stride x stride pixels. The gradient by all pixels of a cell is then one convolution
    without a stride, whose output channels are the pixels of a cell. With j = s q + r,
    the gradient at j is the sum over d of w[s d + r + p] g[q - d] (Shi et al. 2016, section 3).
    """

    def __init__(self, weight: Tensor, how: ConvParams) -> None:
        """Takes a weight [out, in, h, w] with the same stride and padding in both directions, and no dilation."""
        self._weight, self._how = weight, how
        (stride, _), (pad, _) = how.stride, how.padding
        out, channels, *kernel = weight.shape
        self._last = [(k - 1 - pad) // stride for k in kernel]
        first = -((stride - 1 + pad) // stride)
        taps = [last - first + 1 for last in self._last]
        padded = weight.new_zeros(out, channels, *(stride * t for t in taps))
        start = -(stride * first + pad)  # Where the kernel begins among its cells.
        padded[:, :, start : start + kernel[0], start : start + kernel[1]] = weight
        cells = padded.view(out, channels, taps[0], stride, taps[1], stride).flip(2, 4)
        self._cells = cells.permute(3, 5, 1, 0, 2, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def fits(weight: Tensor, how: ConvParams) -> bool:
        """Whether the input has few channels, and the stride is above 1 and the same in both directions."""
        even = how.stride[0] == how.stride[1] > 1 and how.padding[0] == how.padding[1]
        return even and how.dilation == (1, 1) and weight.shape[1] < MAX_SUBPIXEL_CHANNELS

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Runs the plain convolution."""
        return F.conv2d(x, self._weight, bias, *self._how)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Computes the cells [n, in * stride^2, H / stride, W / stride], and puts their pixels in place."""
        stride, taps = self._how.stride[0], self._cells.shape[2:]
        cells = [-(-side // stride) for side in shape[2:]]
        pads = [max(0, last, cells[i] + taps[i] - 1 - grad.shape[i + 2] - last) for i, last in enumerate(self._last)]
        by_cell = F.conv2d(grad, self._cells, padding=pads).contiguous(memory_format=torch.channels_last)
        top, left = (pads[i] - self._last[i] for i in (0, 1))
        by_cell = by_cell[:, :, top : top + cells[0], left : left + cells[1]].permute(0, 2, 3, 1)
        across = stride * shape[1]  # How many numbers a line of a cell has.
        if grad.dtype == HALF and across % 2 == 0:
            by_cell, across = by_cell.view(torch.int32), across // 2  # This copies two numbers at once.
        lines = by_cell.unflatten(3, (stride, across)).permute(0, 1, 3, 2, 4).reshape(shape[0], cells[0] * stride, -1)
        pixels: Tensor = lines.view(grad.dtype).unflatten(2, (-1, shape[1]))
        pixels = pixels[:, : shape[2], : shape[3]].permute(0, 3, 1, 2)
        return pixels.contiguous(memory_format=torch.channels_last)
