"""Layer-wise relevance propagation, put in place of torch's operations wherever they are called.

A torch function mode intercepts the operations that need a rule. Each kind of layer has its own:

    convolution                     what the row's Relevance says; one that takes the image, also by its input rule
    ReLU, leaky ReLU, max pooling   the plain gradient (the winner takes all)
    ReLU6 and other clipped ReLUs   relevance passes where it is clipped too (see `relu.py`)
    linear, mean, sum, padding      the plain gradient, which is the epsilon rule for epsilon near 0
    GELU, LayerNorm, attention      AttnLRP (see `transformers.py`)

What else a network may do is in `probe.py`, which refuses all others.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..rules import Relevance
from .convolutions import Convolution, Picture, RuledConvolution, Span
from .transformers import RuledGELU, RuledLayerNorm, Scaled

SCORE_FACTOR = 0.25  # Of the gradients by queries and keys: a product of two, whose result is a factor once more.
VALUE_FACTOR = 0.5  # Of the gradient by values; each factor of a product of two has half of its relevance.


class _Known(NamedTuple):
    """A tensor that is the network's input but for padding, and its version then."""

    tensor: Tensor
    version: int
    picture: Picture


class RelevanceRules(TorchFunctionMode):
    """Applies `rules`, one for each of the first rows, to every operation inside that has one; `rows` are all rows."""

    def __init__(self, rules: Sequence[Relevance], rows: int) -> None:
        super().__init__()
        self.rows, self.ruled = rows, len(rules)
        self.several = False  # Whether an operation had several entries for each row, or rows in another dimension.
        self._spans: list[tuple[Relevance, int]] = [(rule, len(list(group))) for rule, group in groupby(rules)]
        self._inputs: dict[int, _Known] = {}
        self._handlers: Mapping[Any, Callable[..., Any]] = {
            torch.conv1d: self._convolution,
            torch.conv2d: self._convolution,
            torch.conv3d: self._convolution,
            F.pad: self._same_picture,
            torch.clone: self._same_picture,
            Tensor.clone: self._same_picture,
            Tensor.contiguous: self._same_picture,
            F.gelu: self._gelu,
            F.layer_norm: self._layer_norm,
            torch.layer_norm: self._layer_norm,
            F.multi_head_attention_forward: self._attention,
            F.scaled_dot_product_attention: self._scaled_dot_product,
            **dict.fromkeys([torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm], self._product),
        }

    def see_input(self, x: Tensor, low: Tensor, high: Tensor) -> None:
        """Notes the network's input and the bounds of its values, [C, 1, 1], which the input rules need."""
        shape = (1, *x.shape[1:])
        picture = Picture(x.new_ones(shape), low.to(x).expand(shape), high.to(x).expand(shape))
        self._inputs[id(x)] = _Known(x, x._version, picture)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replaces an operation that has a rule by its ruled twin; leaves everything else alone."""
        handler = self._handlers.get(func)
        if handler is None or not torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        return handler(func, *args, **(kwargs or {}))

    def _count(self, x: Tensor, dimension: int = 0) -> int:
        """How many entries of that dimension are ruled; each row may have several, one after another."""
        each, rest = divmod(x.shape[dimension], self.rows)
        if rest or not each:
            raise ValueError(f"an operation sees {x.shape[dimension]} rows where the batch has {self.rows}")
        self.several |= each > 1 or dimension > 0
        return self.ruled * each

    def _picture(self, x: Tensor) -> Picture | None:
        known = self._inputs.get(id(x))
        return known.picture if known is not None and known.version == x._version else None

    def _same_picture(self, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """An operation that only moves pixels, or adds some around the picture."""
        out: Tensor = func(input, *args, **kwargs)
        if (picture := self._picture(input)) is not None:
            moved = Picture(*(func(each, *args, **kwargs) for each in picture))
            zeros = func(torch.zeros_like(picture.ones), *args, **kwargs)
            moved = moved._replace(
                ones=moved.ones - zeros
            )  # Padding with a value, which is left of zeros, is no pixel.
            self._inputs[id(out)] = _Known(out, out._version, moved)
        return out

    def _convolution(
        self,
        func: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        def operation(x: Tensor) -> Any:
            return func(x, weight, bias, stride, padding, dilation, groups)

        frozen = not any(t is not None and t.requires_grad for t in (weight, bias))
        if not input.requires_grad or not frozen or input.dim() != weight.dim():
            return operation(input)
        picture, dims = self._picture(input), weight.dim() - 2
        if isinstance(padding, str):
            padding, sides = _named_padding(padding, weight.shape[2:], _each(dilation, dims))
            if any(sides):
                input = F.pad(input, sides)
                picture = None if picture is None else Picture(*(F.pad(each, sides) for each in picture))
        spans = self._spans_of(input, picture)
        if not spans:
            return operation(input)
        how = _each(stride, dims), _each(padding, dims), _each(dilation, dims)
        return RuledConvolution.apply(input, operation, Convolution(weight, bias, *how, groups), spans)

    def _spans_of(self, x: Tensor, picture: Picture | None) -> list[Span]:
        """The rows that do not follow the plain gradient, by rule; none for rows with the epsilon rule, the last ones.

        Rows with an input rule of their own may come after those.
        """
        each = self._count(x) // self.ruled
        spans, start = [], 0
        for rule, rows in self._spans:
            own = picture if rule.input != "same" else None
            spans.append(Span(slice(start, start + rows * each), rule, own))
            start += rows * each
        while spans and spans[-1].rule.convolution == "epsilon" and spans[-1].picture is None:
            spans.pop()
        return spans

    def _gelu(self, func: Any, input: Tensor, approximate: str = "none") -> Any:
        if not input.requires_grad:
            return func(input, approximate=approximate)
        return RuledGELU.apply(input, approximate, self._count(input))

    def _layer_norm(
        self,
        func: Any,
        input: Tensor,
        normalized_shape: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        cudnn_enable: bool = True,
    ) -> Any:
        if not input.requires_grad:
            return func(input, normalized_shape, weight, bias, eps)
        return RuledLayerNorm.apply(input, list(normalized_shape), weight, bias, eps, self._count(input))

    def _attention(self, func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Attention as one call, with rows in dimension 1. As its projections are linear, its inputs can be scaled."""
        factors = (*_score_factors(query, key), VALUE_FACTOR)
        scaled = [self._scaled(x, f, 1) for x, f in zip((query, key, value), factors, strict=True)]
        return func(*scaled, *args, **kwargs)

    def _scaled_dot_product(
        self, func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        own, other = _score_factors(query, key)
        query, key = self._scaled(query, own), self._scaled(key, other)
        return func(query, key, self._scaled(value, VALUE_FACTOR), *args, **kwargs)

    def _product(self, func: Any, input: Tensor, other: Tensor, **kwargs: Any) -> Any:
        """A product of two activations; one with a weight is linear."""
        if isinstance(other, Tensor) and input.requires_grad and other.requires_grad:
            input, other = self._scaled(input, VALUE_FACTOR), self._scaled(other, VALUE_FACTOR)
        return func(input, other, **kwargs)

    def _scaled(self, x: Tensor, factor: float, dimension: int = 0) -> Any:
        return Scaled.apply(x, factor, dimension, self._count(x, dimension)) if x.requires_grad else x


def _score_factors(query: Tensor, key: Tensor) -> tuple[float, float]:
    """Of queries and keys; one that does not depend on the image leaves the other its share."""
    both = query.requires_grad and key.requires_grad
    return (SCORE_FACTOR, SCORE_FACTOR) if both else (VALUE_FACTOR, VALUE_FACTOR)


def _each(value: Any, dims: int) -> list[int]:
    """A number for each dimension, from one for all or one for each."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def _named_padding(name: str, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[list[int], list[int]]:
    """The padding at both ends that "valid" and "same" mean, and what F.pad must put at the last one besides."""
    totals = [0 if name == "valid" else step * (side - 1) for side, step in zip(kernel, dilation, strict=True)]
    odd = [extra for total in reversed(totals) for extra in (0, total % 2)]
    return [total // 2 for total in totals], odd
