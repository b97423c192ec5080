"""Guided backprop and deconvnet by hand: every ReLU that torchvision's code calls is replaced by its formula."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from gradserve_server.models.prepared import Prepared


class _Formula(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float, rule: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.top, ctx.rule = top, rule
        return x.clamp(0, top)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        passed = ((x > 0) & (x < ctx.top)).to(grad)
        uphill = (grad > 0).to(grad)
        factor = {"plain": passed, "guided": passed * uphill, "deconvnet": uphill}[ctx.rule]
        return grad * factor, None, None


@contextmanager
def _replaced(rule: str) -> Iterator[list[float]]:
    """Within, `F.relu` and `F.hardtanh` follow the rule; yields the upper bounds of those that were called."""
    tops: list[float] = []

    def relu(x: Tensor, inplace: bool = False) -> Tensor:
        tops.append(float("inf"))
        return _Formula.apply(x, tops[-1], rule)

    def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
        assert min_val == 0
        tops.append(max_val)
        return _Formula.apply(x, max_val, rule)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "relu", relu)
        patch.setattr(torch.nn.functional, "hardtanh", hardtanh)
        yield tops


def ruled_gradient(model: Prepared, image: Tensor, label: int, rule: str) -> Tensor:
    """[1, 3, H, W] -> [1, 3, H, W]."""
    image = image.clone().requires_grad_()
    with _replaced(rule) as tops:
        score = model(image)[0, label]
    assert len(tops) == model.card.relus
    return torch.autograd.grad(score, image)[0]
