"""BALANCED: an exact forward whose backward runs in bfloat16, without touching the model.

The rounding that spoils bfloat16 gradients happens in the forward, where it flips ReLUs and maxima. Here only the
backward's matrix products are rounded: the gradients' cosine with the exact ones stays above .999.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .convolutions import HALF, ConvParams, Kernel
from .cpu_mode import KernelCache

MIN_MULTIPLIES_PER_ELEMENT = 24  # Fewest multiply-adds per element for which a cast pays on a CPU.

aten = torch.ops.aten


class HalfWeights:
    """bfloat16 copies of parameters, each made when it is first used. Weights that are no parameters are not kept."""

    def __init__(self, exact: KernelCache | None = None) -> None:
        """`exact`: kernels of the parameters in fp32, for the forward pass."""
        self.exact = exact or KernelCache()
        self._known: dict[int, tuple[Tensor, Tensor]] = {}  # By id, with the weight so that its id stays taken.
        self._kernels = KernelCache()

    def of(self, weight: Tensor) -> Tensor:
        """The weight in bfloat16."""
        if not isinstance(weight, nn.Parameter):
            return weight.detach().to(HALF)
        if id(weight) not in self._known:
            self._known[id(weight)] = (weight, weight.detach().to(HALF))
        return self._known[id(weight)][1]

    def kernel(self, weight: Tensor, how: ConvParams) -> Kernel | None:
        """The kernel of the convolution in bfloat16, if there is one."""
        return self._kernels.of(self.of(weight), how) if isinstance(weight, nn.Parameter) else None


class _Convolution(torch.autograd.Function):
    """A convolution with an exact forward and its input's gradient in bfloat16."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, halves: HalfWeights, how: ConvParams
    ) -> Tensor:
        """Runs the operations of EXACT, which gives the same bits."""
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        ctx.how, ctx.shape, ctx.dtype = how, x.shape, x.dtype
        ctx.half, ctx.kernel = halves.of(weight), halves.kernel(weight, how) if channels_last else None
        ctx.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        kernel = halves.exact.lookup(x, weight, bias, how)
        return F.conv2d(x, weight, bias, *how) if kernel is None else kernel.forward(x, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradient by the input."""
        grad = grads[0].to(HALF)
        if ctx.kernel is not None:
            by_input = ctx.kernel.input_gradient(grad, ctx.shape)
        else:
            stride, padding, dilation, groups = ctx.how
            like = torch.empty(ctx.shape, dtype=HALF, device=grad.device, memory_format=ctx.memory_format)
            args = (None, stride, padding, dilation, False, [0, 0], groups, [True, False, False])
            by_input = aten.convolution_backward(grad, like, ctx.half, *args)[0]
        return by_input.to(ctx.dtype), None, None, None, None


class _Linear(torch.autograd.Function):
    """A linear layer, x [n, in] -> [n, out], with an exact forward and its input's gradient in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, half: Tensor) -> Tensor:
        """Runs the plain linear layer."""
        ctx.half, ctx.dtype = half, x.dtype
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradient by x, which is one product."""
        return (grads[0].to(HALF) @ ctx.half).to(ctx.dtype), None, None, None


class HalfBackward(TorchFunctionMode):
    """Runs the backward of convolutions, linear layers and plain attention in bfloat16 where that pays."""

    def __init__(self, halves: HalfWeights) -> None:
        super().__init__()
        self._halves = halves
        self._handlers: Mapping[Any, Callable[..., Tensor | None]] = {
            torch.conv2d: self._conv2d,
            F.linear: self._linear,
            F.multi_head_attention_forward: self._attention,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replaces the operations that it knows, where gradients are wanted."""
        handler = self._handlers.get(func)
        replaced = handler(*args, **(kwargs or {})) if handler and torch.is_grad_enabled() else None
        return func(*args, **(kwargs or {})) if replaced is None else replaced

    def _conv2d(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        how = ConvParams.of(*args, **kwargs)
        if how is None or input.dim() != 4 or not _has_gradient(input, weight) or not _pays(weight, how):
            return None
        if bias is not None and bias.requires_grad:
            return None
        return _Convolution.apply(input, weight, bias, self._halves, how)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        if not _has_gradient(input, weight):
            return None
        flat = input.reshape(-1, input.shape[-1])  # With more dimensions the product would make strided copies.
        out = _Linear.apply(flat, weight, bias, self._halves.of(weight))
        return out.view(*input.shape[:-1], weight.shape[0])  # type: ignore[no-any-return]

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Self-attention as vision transformers call it, on [length, batch, width] as in torch's own function."""
        width, heads, in_weight, in_bias, bias_k, bias_v, zero, dropout, out_weight, out_bias = args[:10]
        plain = query is key is value and in_weight is not None and bias_k is None and bias_v is None and not zero
        deterministic = not kwargs.get("training", True) or dropout == 0
        masked = kwargs.get("key_padding_mask") is not None or kwargs.get("attn_mask") is not None
        if not plain or not deterministic or masked or kwargs.get("need_weights", True) or query.dim() != 3:
            return None
        if not _has_gradient(query, in_weight):
            return None
        length, batch, _ = query.shape
        projected = self._linear(query.transpose(0, 1), in_weight, in_bias)
        assert projected is not None, "the check above holds for _linear too"
        q, k, v = projected.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        out = self._linear(mixed, out_weight, out_bias)
        return None if out is None else (out.transpose(0, 1), None)


def _has_gradient(x: Tensor, weight: Tensor) -> bool:
    """Whether x in fp32 needs a gradient and the weight does not."""
    return x.requires_grad and not weight.requires_grad and x.dtype == torch.float32 == weight.dtype


def _pays(weight: Tensor, how: ConvParams) -> bool:
    """Whether casting to bfloat16 and back costs less than it saves; on a CPU never for grouped convolutions."""
    if weight.device.type != "cpu":
        return True
    out, in_, height, width = weight.shape
    return how.groups == 1 and out * in_ * height * width >= MIN_MULTIPLIES_PER_ELEMENT * (
        out + in_ * how.stride[0] * how.stride[1]
    )
