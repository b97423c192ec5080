"""Layers whose weight gradients are indexed, and their projection: one example's [outputs, inputs] -> [s, r]."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...engine.query import Tap
from ...models.prepared import Prepared


@dataclass(frozen=True)
class Layer:
    """A Linear or Conv2d as a matrix [outputs, inputs] applied at every position; a bias is one input more."""

    name: str
    inputs: int
    outputs: int
    bias: bool
    convolution: dict[str, Any] | None = None  # stride, padding, dilation, groups; None: a Linear
    kernel: tuple[int, ...] = ()

    @property
    def columns(self) -> int:
        """Inputs with the bias."""
        return self.inputs + self.bias

    @property
    def channels(self) -> int:
        """Numbers at one position of what goes in."""
        if self.convolution is None:
            return self.inputs
        return self.inputs // prod(self.kernel) * int(self.convolution["groups"])

    def features(self, x: Tensor) -> Tensor:
        """What goes in, averaged over positions: [N, channels]."""
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
        """By the weights, summed over the examples: [outputs, columns]."""
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

    layer: Layer
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


def covered(model: Prepared) -> tuple[list[Layer], float]:
    """The layers that can be indexed, in execution order, and the share of all parameters that they hold.

    Left out: modules that run more than once or share weights, padding that is not of zeros, and layers whose first
    dimension is not the batch. The model must be unfolded.
    """
    batched = _batched(model)
    found, seen, count = [], set(), 0
    for name in dict.fromkeys(layer.name for layer in model.card.layers):
        module: Any = model.network.get_submodule(name) if name in batched else None
        layer = None if module is None else _layer(name, module)
        if layer is not None and id(module.weight) not in seen:
            found.append(layer)
            seen.add(id(module.weight))
            count += layer.outputs * layer.columns
    return found, count / max(1, sum(p.numel() for p in model.network.parameters()))


def last_linear(layers: Sequence[Layer], classes: int) -> Layer | None:
    """The layer that gives the logits, if it is a Linear."""
    last = layers[-1] if layers else None
    return last if last is not None and last.convolution is None and last.outputs == classes else None


def _layer(name: str, module: nn.Module) -> Layer | None:
    if isinstance(module, nn.Linear):
        return Layer(name, module.in_features, module.out_features, module.bias is not None)
    if not isinstance(module, nn.Conv2d) or module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    facts = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation, "groups": module.groups}
    inputs = module.weight[0].numel()
    return Layer(name, inputs, module.out_channels, module.bias is not None, facts, tuple(module.kernel_size))


def _batched(model: Prepared) -> set[str]:
    """Modules that run once and keep the batch as their first dimension."""
    calls: Counter[str] = Counter()
    whole: set[str] = set()

    def hook(name: str) -> Any:
        def on_output(_: nn.Module, args: Any, out: Any) -> None:
            calls[name] += 1
            if isinstance(out, Tensor) and args and len(args[0]) == len(out) == 2:
                whole.add(name)

        return on_output

    handles = [module.register_forward_hook(hook(name)) for name, module in model.network.named_modules()]
    try:
        with torch.no_grad():
            model(torch.rand(2, 3, model.card.height, model.card.width, device=model.device, dtype=model.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return {name for name in whole if calls[name] == 1}
