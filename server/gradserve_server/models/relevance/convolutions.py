"""LRP's rules of convolutions. x, y and g are the input, the output and the gradient by the output of the ruled rows.

The gradient g is the relevance of y divided by y. A rule returns the relevance of x divided by x, but for the input
rules `flat` and `box`, which return the relevance of x itself. With the epsilon rule that is the plain gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..rules import Relevance

STABILIZER = 1e-6  # Added to denominators, with their sign; the value of zennit's rules.

aten = torch.ops.aten


class Convolution(NamedTuple):
    """A convolution of one, two or three dimensions with a frozen weight."""

    weight: Tensor
    bias: Tensor | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The same convolution with another weight of that shape."""
        none = [0] * len(self.stride)
        how = (bias, self.stride, self.padding, self.dilation, False, none, self.groups)
        return aten.convolution(x, weight, *how)  # type: ignore[no-any-return]

    def backward(self, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """The gradient by x, of whose values it does not depend."""
        none = [0] * len(self.stride)
        how = (None, self.stride, self.padding, self.dilation, False, none, self.groups, [True, False, False])
        return aten.convolution_backward(g, x, weight, *how)[0]  # type: ignore[no-any-return]


class Picture(NamedTuple):
    """Ones where the network's input has pixels, and their lowest and highest values; each is [1, C, H, W]."""

    ones: Tensor
    low: Tensor
    high: Tensor


class Span(NamedTuple):
    """Rows that follow one rule; `picture` is there where the convolution's input is the network's, with a rule."""

    rows: slice
    rule: Relevance
    picture: Picture | None


def stabilized(z: Tensor) -> Tensor:
    """z, moved away from zero by STABILIZER."""
    return z + torch.where(z < 0, -STABILIZER, STABILIZER)


def propagate(span: Span, convolution: Convolution, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """The relevance of x by the span's rule, divided by x; for the input rules flat and box the relevance itself."""
    relevance, weight, bias = g * y, convolution.weight, convolution.bias
    if span.picture is not None:
        rule = _flat if span.rule.input == "flat" else _box
        return rule(convolution, x, y, relevance, span.picture)
    if span.rule.convolution == "epsilon":
        return convolution.backward(g, x, weight)
    up = weight.clamp_min(0)
    down = weight.clamp_max(0)
    if span.rule.convolution == "z_plus":
        return _share_out(convolution, x, relevance, (up, down), None if bias is None else bias.clamp_min(0))
    gamma = span.rule.gamma
    biases = (None, None) if bias is None else (bias + gamma * bias.clamp_min(0), bias + gamma * bias.clamp_max(0))
    weights = (weight + gamma * up, weight + gamma * down)
    shared = _share_out(convolution, x, relevance * (y > 0), weights, biases[0])
    if bool((against := relevance * (y < 0)).any()):  # Seldom, where a ReLU follows.
        shared = shared + _share_out(convolution, x, against, weights[::-1], biases[1])
    return shared


def _share_out(
    convolution: Convolution, x: Tensor, relevance: Tensor, weights: Sequence[Tensor], bias: Tensor | None
) -> Tensor:
    """Shares relevance out by the products of positive x with one weight and negative x with the other.

    z+ is Montavon et al. 2017, for x of any sign; gamma is Andeol et al. 2021 and zennit's.
    """
    positive, negative = weights
    mixed = bool((x < 0).any())
    z = convolution.forward(x.clamp_min(0) if mixed else x, positive, bias)
    if mixed:
        z = z + convolution.forward(x.clamp_max(0), negative)
    s = relevance / stabilized(z)
    shared = convolution.backward(s, x, positive)
    return torch.where(x < 0, convolution.backward(s, x, negative), shared) if mixed else shared


def _flat(convolution: Convolution, x: Tensor, y: Tensor, relevance: Tensor, picture: Picture) -> Tensor:
    """Shares relevance out evenly over the pixels of each window (Lapuschkin et al. 2019)."""
    ones = torch.ones_like(convolution.weight)
    s = relevance / stabilized(convolution.forward(picture.ones, ones))
    return picture.ones * convolution.backward(s, x, ones)


def _box(convolution: Convolution, x: Tensor, y: Tensor, relevance: Tensor, picture: Picture) -> Tensor:
    """Shares relevance out by how far each pixel is from its most opposing value (Montavon et al. 2017)."""
    weight, (_, low, high) = convolution.weight, picture
    up, down = weight.clamp_min(0), weight.clamp_max(0)
    least = convolution.forward(low, up) + convolution.forward(high, down)
    s = relevance / stabilized(convolution.forward(x, weight) - least)
    parts = [v * convolution.backward(s, x, w) for v, w in ((x, weight), (low, up), (high, down))]
    return parts[0] - parts[1] - parts[2]


class RuledConvolution(torch.autograd.Function):
    """A convolution whose first rows follow the rules of LRP on the way back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, operation: Callable[[Tensor], Tensor], convolution: Convolution, spans: Sequence[Span]
    ) -> Tensor:
        """Runs the plain operation on all rows."""
        y = operation(x)
        ruled = spans[-1].rows.stop
        ctx.save_for_backward(x, y[:ruled].clone())  # What follows may write over y.
        ctx.convolution, ctx.spans = convolution, spans
        ctx.takes_picture = any(span.picture is not None for span in spans)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The rules for the ruled rows, and the plain gradient for those after them."""
        (x, y), (g,), convolution = ctx.saved_tensors, grads, ctx.convolution
        out = plain_after(len(y), convolution, x, g)
        for span in ctx.spans:
            out[span.rows] = propagate(span, convolution, x[span.rows], y[span.rows], g[span.rows])
        return out, None, None, None


# Whether a convolution's gradient for the last rows has the same bits as that of all rows, by all that may decide it.
_same_bits: dict[tuple[object, ...], bool] = {}
MAX_KNOWN = 10_000
MIN_FILLED = 0.02  # Share of a gradient that is not 0; sums of a few numbers have the same bits in any order.


def plain_after(ruled: int, convolution: Convolution, x: Tensor, g: Tensor) -> Tensor:
    """A tensor like x with the plain gradient in all rows after the ruled ones, and anything in these.

    For fewer rows a kernel may sum in another order, and company would show. So where that was seen, all are computed.
    """
    if ruled == len(x):
        return torch.empty_like(x)
    weight = convolution.weight
    shapes = tuple((each.shape, each.stride(), each.dtype, each.device) for each in (x, g, weight))
    how = tuple(map(tuple, convolution[2:5])), convolution.groups
    key = (ruled, how, shapes, torch.get_num_threads())
    if not _same_bits.get(key, False):
        out = convolution.backward(g, x, weight)
        if key not in _same_bits and float((g[ruled:] != 0).float().mean()) > MIN_FILLED:
            part = convolution.backward(g[ruled:], x[ruled:], weight)
            if len(_same_bits) >= MAX_KNOWN:
                _same_bits.clear()
            _same_bits[key] = torch.equal(part, out[ruled:])
        return out
    out = torch.empty_like(x)
    out[ruled:] = convolution.backward(g[ruled:], x[ruled:], weight)
    return out
