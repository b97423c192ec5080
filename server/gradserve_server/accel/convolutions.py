"""Convolutions with frozen weights in oneDNN's own layouts, whose inputs' gradients can be asked for."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = torch.bfloat16
MAX_SUBPIXEL_CHANNELS = 8  # input channels; kernels work on 16 at once
MIN_CACHE_FILLING_WEIGHTS = 2**20  # weights that fill a core's cache
MAX_NARROW_COLUMNS = 8  # columns of a map; kernels work on 16 at once
TRIAL_IMAGES = 3  # one with a NaN between two others
NO_ACTIVATION: tuple[str, list[None], str] = ("none", [], "")  # after the convolution
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
        """[n, in, H, W] -> [n, out, H', W'], without autograd."""

    @abstractmethod
    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """The output's gradient -> the input's, of the given shape."""


class Packed(Kernel):
    """A weight [out, in, h, w] in two blocked layouts, of the forward pass and of the input's gradient.

    The layouts follow from the first input; others are computed as well, of whatever size.
    """

    def __init__(self, weight: Tensor, how: ConvParams) -> None:
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


class SideBySide(Packed):
    """A large weight over small maps: a batch's images side by side as one wide image, with columns of zeros between.

    Kernels read the weight once for each image; larger than a core's cache, it comes from further away each time. They
    may sum a wide image in another order, and with a stride on some CPUs do.

    Images stay apart only where a kernel reads no further than its window. With bfloat16 instructions it takes input
    channels in pairs, and of an odd number of channels the last one's partner is the next pixel's first: it is
    multiplied by zero, but zero times NaN is NaN. So every size is tried before it is used.
    """

    def __init__(self, weight: Tensor, how: ConvParams) -> None:
        """No size is tried yet."""
        super().__init__(weight, how)
        self._apart: dict[tuple[str, int, int], bool] = {}  # by direction, height and width of the input

    @staticmethod
    def fits(weight: Tensor, how: ConvParams) -> bool:
        """Whether it is meant for such a convolution, which gives one column for each stride of columns."""
        reach = (weight.shape[3] - 1) * how.dilation[1]
        return weight.numel() >= MIN_CACHE_FILLING_WEIGHTS and reach == 2 * how.padding[1] > 0

    def _columns(self, width: int) -> tuple[int, int, int]:
        """Of an image's output; from one image to the next, and from one output to the next."""
        stride, padding = self._how.stride[1], self._how.padding[1]
        step = -(-(width + padding) // stride)
        return -(-width // stride), step * stride, step

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The same of a wide image."""
        key = ("forward", x.shape[2], x.shape[3])
        if _helps(len(x), self._columns(x.shape[3])[0]) and self._stay_apart(key, x, self._wide_forward):
            return self._wide_forward(x, bias)
        return super().forward(x, bias)

    def _wide_forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        out, step_in, step_out = self._columns(x.shape[3])
        return _apart(super().forward(_abreast(x, step_in), bias), step_out, out)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """The same of a wide gradient."""

        def run(grad: Tensor) -> Tensor:
            return self._wide_input_gradient(grad, torch.Size((len(grad), *shape[1:])))

        key = ("input gradient", shape[2], shape[3])
        if _helps(len(grad), self._columns(shape[3])[0]) and self._stay_apart(key, grad, run):
            return run(grad)
        return super().input_gradient(grad, shape)

    def _wide_input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        count, channels, height, width = shape
        _, step_in, step_out = self._columns(width)
        wide = torch.Size((1, channels, height, count * step_in))
        return _apart(super().input_gradient(_abreast(grad, step_out), wide), step_in, width)

    def _stay_apart(self, key: tuple[str, int, int], like: Tensor, run: Callable[[Tensor], Tensor]) -> bool:
        """Whether `run` keeps NaN in its image, for images of like's size; tried once for each direction and size."""
        if key not in self._apart:
            images = torch.zeros((TRIAL_IMAGES, *like.shape[1:]), dtype=like.dtype)
            images[TRIAL_IMAGES // 2] = torch.nan
            with torch.no_grad():
                found = run(images.contiguous(memory_format=torch.channels_last))
            self._apart[key] = bool((found.isnan().flatten(1).any(1) == images.isnan().flatten(1).any(1)).all())
        return self._apart[key]


def _helps(count: int, columns: int) -> bool:
    return count > 1 and columns <= MAX_NARROW_COLUMNS


def _abreast(x: Tensor, step: int) -> Tensor:
    """[n, c, H, W] -> [1, c, H, n * step]."""
    return F.pad(x.permute(2, 0, 3, 1), (0, 0, 0, step - x.shape[3])).flatten(1, 2).permute(2, 0, 1).unsqueeze(0)


def _apart(wide: Tensor, step: int, width: int) -> Tensor:
    """[1, c, H, n * step] -> [n, c, H, width]."""
    images: Tensor = wide[0].unflatten(2, (-1, step))[..., :width].permute(2, 0, 1, 3)
    return images.clone(memory_format=torch.channels_last)  # always a copy: a network may write over it


class Pointwise(Packed):
    """A strided convolution that sees one pixel of each cell, and whose gradient by the others is zero."""

    @staticmethod
    def fits(weight: Tensor, how: ConvParams) -> bool:
        """Whether it is such a convolution."""
        return weight.shape[2:] == (1, 1) and how.stride != (1, 1) and how.padding == (0, 0)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """One product for the pixels seen, among zeros."""
        seen = grad.permute(0, 2, 3, 1).flatten(0, 2) @ self._weight.flatten(1)
        seen = seen.view(len(grad), *grad.shape[2:], -1).permute(0, 3, 1, 2)
        zeros = torch.zeros((len(seen), *shape[2:], shape[1]), dtype=seen.dtype, device=seen.device)
        found = zeros.permute(0, 3, 1, 2)
        found[:, :, :: self._how.stride[0], :: self._how.stride[1]] = seen
        return found


class SubPixel(Kernel):
    """A strided convolution of few channels. Its input's gradient is a plain one whose channels are a cell's pixels.

    With j = s q + r, the gradient at j is the sum over d of w[s d + r + p] g[q - d] (Shi et al. 2016, section 3).
    """

    def __init__(self, weight: Tensor, how: ConvParams) -> None:
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
    def fits(weight: Tensor, how: ConvParams) -> bool:
        """Whether it is meant for such a convolution."""
        even = how.stride[0] == how.stride[1] > 1 and how.padding[0] == how.padding[1]
        return even and how.dilation == (1, 1) and weight.shape[1] < MAX_SUBPIXEL_CHANNELS

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
