"""AttnLRP by detaching: torchvision's own code with each rule written as a function that autograd differentiates.

A factor that counts as a constant is detached, so that the gradient times a tensor is the tensor's relevance.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def attn_lrp() -> Iterator[None]:
    """Within, GELU, LayerNorm and attention follow the rules of Achtibat et al. 2024."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "gelu", _gelu)
        patch.setattr(F, "layer_norm", _layer_norm)
        patch.setattr(F, "multi_head_attention_forward", _attention)
        patch.setattr(Tensor, "matmul", _product)
        patch.setattr(Tensor, "__matmul__", _product)
        yield


_matmul = torch.matmul


def _half(x: Tensor) -> Tensor:
    return 0.5 * x + 0.5 * x.detach()


def _product(a: Tensor, b: Tensor) -> Tensor:
    return _matmul(_half(a), _half(b)) if a.requires_grad and b.requires_grad else _matmul(a, b)


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    share = 0.5 * (1 + torch.erf(x / 2**0.5))
    return x * share.detach()


def _layer_norm(x: Tensor, shape: Any, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    deviation = (x.var(-1, correction=0, keepdim=True) + eps).sqrt()
    return centred / deviation.detach() * weight + bias


def _attention(query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, *args: Any, **kwargs: Any) -> Any:
    """Self-attention on [length, batch, width] by its formula."""
    in_weight, in_bias, out_weight, out_bias = args[0], args[1], args[6], args[7]
    length, batch, _ = query.shape
    projected = (query @ in_weight.T + in_bias).view(length, batch, 3, heads, width // heads)
    q, k, v = projected.permute(2, 1, 3, 0, 4)
    scores = _product(q, k.transpose(-2, -1)) / (width // heads) ** 0.5
    mixed = _product(scores.softmax(-1), v).permute(2, 0, 1, 3).reshape(length, batch, width)
    return mixed @ out_weight.T + out_bias, None


def relevance(network: nn.Module, x: Tensor, label: int) -> Tensor:
    """The relevance of x [1, 3, H, W] for a logit, where patches follow the epsilon rule."""
    x = x.detach().clone().requires_grad_()
    with attn_lrp():
        score = network(x)[0, label]
    return x.detach() * torch.autograd.grad(score, x)[0]
