"""Layers whose weight gradients are indexed, and their projection: one example's [outputs, inputs] -> [s, r]."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...engine.query import Tap


@dataclass(frozen=True)
class IndexedLayer:
    """A Linear or Conv2d as a matrix [outputs, inputs] applied at every position; a bias is one input more."""

    name: str
    inputs: int
    outputs: int
    bias: bool
    convolution: dict[str, Any] | None = None  # Stride, padding, dilation and groups; None for a Linear.
    kernel: tuple[int, ...] = ()
    gives_logits: bool = False  # Whether its output is the model's logits, unchanged.

    @property
    def columns(self) -> int:
        """Inputs with the bias."""
        return self.inputs + self.bias

    @property
    def channels(self) -> int:
        """How many numbers the layer's input has at one position."""
        if self.convolution is None:
            return self.inputs
        return self.inputs // prod(self.kernel) * int(self.convolution["groups"])

    def features(self, x: Tensor) -> Tensor:
        """The layer's input, averaged over positions: [N, channels]."""
        return x.reshape(len(x), -1, self.inputs).mean(1) if self.convolution is None else x.flatten(2).mean(2)

    def patches(self, x: Tensor) -> Tensor:
        """What the matrix was applied to, for the examples x: [N, groups, positions, columns]."""
        if self.convolution is None:
            rows = x.reshape(len(x), 1, -1, self.inputs)
        else:
            facts, groups = dict(self.convolution), self.convolution["groups"]
            del facts["groups"]
            unfolded = F.unfold(x, self.kernel, **facts)  # [N, groups * inputs, positions]
            rows = unfolded.view(len(x), groups, self.inputs, -1).transpose(2, 3)
        return torch.cat([rows, torch.ones_like(rows[..., :1])], -1) if self.bias else rows

    def gradient(self, x: Tensor, grad: Tensor) -> Tensor:
        """The gradient by the weights, summed over the examples: [outputs, columns]."""
        return torch.einsum("ngpo,ngpc->goc", self.rows(grad), self.patches(x)).flatten(0, 1)

    def rows(self, grad: Tensor) -> Tensor:
        """The gradient by the layer's output as [N, groups, positions, outputs / groups]."""
        if self.convolution is None:
            return grad.reshape(len(grad), 1, -1, self.outputs)
        groups = self.convolution["groups"]
        return grad.reshape(len(grad), groups, self.outputs // groups, -1).transpose(2, 3)


@dataclass(frozen=True, eq=False)
class Projection:
    """left^T G right for the gradient G [outputs, columns] of each example, without ever making G.

    left [outputs, s], right [columns, r], orthonormal columns; as in LoGra (Choe et al. 2024, section 3.2).
    """

    layer: IndexedLayer
    left: Tensor
    right: Tensor

    @property
    def size(self) -> int:
        """s * r."""
        return self.left.shape[1] * self.right.shape[1]

    def of_inputs(self, x: Tensor) -> Tensor:
        """The layer's input for N examples -> [N, groups, positions, r]."""
        layer, right = self.layer, self.right
        weight = right[: layer.inputs]
        if layer.convolution is None:
            out = x.reshape(len(x), 1, -1, layer.inputs) @ weight
        else:
            groups, rank = layer.convolution["groups"], right.shape[1]
            filters = weight.T.reshape(rank, -1, *layer.kernel).repeat(groups, 1, 1, 1)
            maps = F.conv2d(x, filters, **layer.convolution)
            out = maps.view(len(x), groups, rank, -1).transpose(2, 3)
        return out + right[-1] if layer.bias else out

    def of_outputs(self, grad: Tensor) -> Tensor:
        """The gradient by the layer's output for N examples -> [N, groups, positions, s]."""
        rows = self.layer.rows(grad)
        return torch.einsum("ngpo,gos->ngps", rows, self.left.view(rows.shape[1], rows.shape[3], -1))

    def __call__(self, x: Tensor, grad: Tensor) -> Tensor:
        """Input and output gradient -> [N, s * r]; what a Tap of weights reduces by."""
        return joined(self.of_inputs(x), self.of_outputs(grad))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Projection":
        """The same on a device."""
        return Projection(self.layer, self.left.to(device, dtype), self.right.to(device, dtype))


def joined(inputs: Tensor, outputs: Tensor) -> Tensor:
    """[N, groups, positions, r] and [N, groups, positions, s] -> [N, s * r], summed over groups and positions."""
    return torch.einsum("ngps,ngpr->nsr", outputs, inputs).flatten(1)


def parameters(module: Any) -> Tensor:
    """A layer's weights with the bias as last column: [outputs, columns]."""
    weight: Tensor = module.weight.detach().flatten(1)
    return weight if module.bias is None else torch.cat([weight, module.bias.detach()[:, None]], 1)


def taps(projections: Sequence[Projection]) -> tuple[Tap, ...]:
    """What a query listens to."""
    return tuple(Tap(each.layer.name, "weight", each) for each in projections)
