"""Relevance in float64, layer by layer as the papers have it: the relevance itself is carried back, not a gradient.

The network is traced by torch.fx, and every node shares its relevance out among its inputs by hand.
"""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.grad import conv2d_input

SMALL = 1e-6  # Added to denominators of z+ and gamma.


def relevance(network: nn.Module, x: Tensor, label: int, rule: str) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """The relevance of x [1, 3, H, W] for a logit; and for each convolution that of its input and of its output."""
    traced = fuse(network.double().eval())
    values = _Values(traced)
    logits = values.run(x)
    start = torch.zeros_like(logits)
    start[0, label] = logits[0, label]
    return _Backward(traced, values.of, rule).run(start)


class _Values(fx.Interpreter):
    """Every node's value."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.of: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.of[n] = value.clone() if isinstance(value, Tensor) else value  # ReLUs write over it.
        return value


class _Backward:
    def __init__(self, traced: fx.GraphModule, values: dict[fx.Node, Any], rule: str) -> None:
        self.traced, self.values, self.rule = traced, values, rule
        self.of: dict[fx.Node, Tensor] = {}
        self.layers: dict[str, tuple[Tensor, Tensor]] = {}

    def run(self, start: Tensor) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        nodes = list(self.traced.graph.nodes)
        self.of[nodes[-1].args[0]] = start
        for node in reversed(nodes[:-1]):
            if node in self.of and node.op != "placeholder":
                self._share(node)
        return self.of[nodes[0]], self.layers

    def _give(self, node: fx.Node, relevance: Tensor) -> None:
        self.of[node] = self.of[node] + relevance if node in self.of else relevance

    def _share(self, node: fx.Node) -> None:
        r, y = self.of[node], self.values[node]
        inputs = [arg for arg in node.all_input_nodes if isinstance(self.values[arg], Tensor)]
        kind = self.traced.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        if isinstance(kind, nn.Conv2d):
            own = self._convolution(kind, self.values[inputs[0]], y, r)
            self.layers[str(node.target)] = (own, r)
            self._give(inputs[0], own)
        elif kind in (operator.add, operator.iadd, torch.add):
            for each in inputs:  # In proportion to the summands.
                self._give(each, quotient(r, y) * self.values[each])
        elif isinstance(kind, (nn.ReLU, nn.ReLU6, nn.Dropout, nn.Identity)) or kind in (F.relu, F.relu6, F.dropout):
            self._give(inputs[0], r)  # All of it, also where it is clipped.
        else:
            self._give(inputs[0], self._by_products(node, inputs[0], r, y))

    def _by_products(self, node: fx.Node, source: fx.Node, r: Tensor, y: Tensor) -> Tensor:
        """A linear operation, or one that chooses: in proportion to the products of its inputs and weights."""
        x = self.values[source].detach().clone().requires_grad_()

        def argument(each: Any) -> Any:
            return x if each is source else self.values[each]

        args, kwargs = fx.map_arg((node.args, node.kwargs), argument)
        if node.op == "call_module":
            out = self.traced.get_submodule(str(node.target))(*args)
        elif node.op == "call_method":
            out = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            assert callable(node.target)
            out = node.target(*args, **kwargs)
        return x.detach() * torch.autograd.grad(out, x, quotient(r, y))[0]

    def _convolution(self, layer: nn.Conv2d, x: Tensor, y: Tensor, r: Tensor) -> Tensor:
        weight, bias = layer.weight.detach(), layer.bias
        bias = torch.zeros(layer.out_channels, dtype=x.dtype) if bias is None else bias.detach()
        up, down = weight * (weight > 0), weight * (weight < 0)
        if self.rule == "epsilon":
            return self._shares(layer, x, quotient(r, y), weight, weight)
        if self.rule == "z_plus":
            return self._in_proportion(layer, x, r, up, down, bias * (bias > 0))
        agree, against = weight + 0.25 * up, weight + 0.25 * down
        biases = bias + 0.25 * bias * (bias > 0), bias + 0.25 * bias * (bias < 0)
        return self._in_proportion(layer, x, r * (y > 0), agree, against, biases[0]) + self._in_proportion(
            layer, x, r * (y < 0), against, agree, biases[1]
        )

    def _in_proportion(
        self, layer: nn.Conv2d, x: Tensor, r: Tensor, for_positive: Tensor, for_negative: Tensor, bias: Tensor
    ) -> Tensor:
        how = (layer.stride, layer.padding, layer.dilation, layer.groups)
        z = F.conv2d(x * (x > 0), for_positive, bias, *how) + F.conv2d(x * (x < 0), for_negative, None, *how)
        return self._shares(layer, x, r / (z + SMALL * (1 - 2.0 * (z < 0))), for_positive, for_negative)

    def _shares(self, layer: nn.Conv2d, x: Tensor, s: Tensor, for_positive: Tensor, for_negative: Tensor) -> Tensor:
        how = (layer.stride, layer.padding, layer.dilation, layer.groups)
        positive, negative = (conv2d_input(x.shape, weight, s, *how) for weight in (for_positive, for_negative))
        return x * (x > 0) * positive + x * (x < 0) * negative


def quotient(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))
