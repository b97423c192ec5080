"""The engine's own prepared model as other libraries want one."""

from typing import Any

import torch
from torch import Tensor, nn

from gradserve_server.models.prepared import Prepared


class _Layout(torch.autograd.Function):
    """channels_last forward, as in the engine; contiguous backward, which torchattacks' L2 attack needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous()


class Wrapped(nn.Module):
    """Pictures [N, 3, H, W] in [0, 1] -> logits, computed as the engine computes them."""

    def __init__(self, model: Prepared) -> None:
        super().__init__()
        self.network, self._model = model.network, model
        self.eval()  # torchattacks puts back what it finds

    def forward(self, x: Tensor) -> Tensor:
        return self._model(in_engine_layout(x))


def in_engine_layout(x: Tensor) -> Tensor:
    """The pictures in the engine's memory format; their gradient comes back contiguous."""
    laid: Tensor = _Layout.apply(x)
    return laid
