"""AttnLRP's rules of transformers (Achtibat et al. 2024): GELU, LayerNorm, and products of two activations.

`count` is the number of ruled entries, the first ones of the dimension that holds the rows. Their gradients are
relevance divided by activation; the others are plain. Softmax, linear layers and sums keep the plain gradient.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten


class RuledGELU(torch.autograd.Function):
    """GELU with the identity rule: relevance passes unchanged (Achtibat et al. 2024)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, approximate: str, count: int) -> Tensor:
        """The plain operation."""
        y, ruled = F.gelu(x, approximate=approximate), x[:count]
        factor = torch.where(ruled == 0, 0.5, y[:count] / ruled)
        ctx.save_for_backward(x, factor)
        ctx.approximate, ctx.count = approximate, count
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """g times gelu(x) / x, or the plain gradient."""
        (x, factor), (g,), count = ctx.saved_tensors, grads, ctx.count
        plain = aten.gelu_backward(g[count:], x[count:], approximate=ctx.approximate)
        return torch.cat([g[:count] * factor, plain]), None, None


class RuledLayerNorm(torch.autograd.Function):
    """LayerNorm whose deviation counts as a constant (Achtibat et al. 2024)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float, count: int
    ) -> Tensor:
        """The plain operation."""
        y, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        ctx.shape, ctx.count = shape, count
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """(h - mean(h)) / deviation for h = g * weight, or the plain gradient."""
        (x, mean, rstd, weight, bias), (g,), count = ctx.saved_tensors, grads, ctx.count
        h = g[:count] if weight is None else g[:count] * weight
        dims = tuple(range(-len(ctx.shape), 0))
        parts = [(h - h.mean(dims, keepdim=True)) * rstd[:count]]
        if count < len(x):
            rest = (x[count:], ctx.shape, mean[count:], rstd[count:], weight, bias, [True, False, False])
            parts.append(aten.native_layer_norm_backward(g[count:], *rest)[0])
        return torch.cat(parts), None, None, None, None, None


class Scaled(torch.autograd.Function):
    """Hands a tensor on; the gradient of the ruled entries of one dimension is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, dimension: int, count: int) -> Tensor:
        """Returns a view of x."""
        ctx.how = factor, dimension, count
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient, scaled where it is ruled."""
        factor, dimension, count = ctx.how
        g = grads[0].clone()
        g.narrow(dimension, 0, count).mul_(factor)
        return g, None, None, None
