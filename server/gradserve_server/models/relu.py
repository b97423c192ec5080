"""Rules of the backward pass through ReLU, by row, without touching the model.

A torch function mode intercepts the ReLU *operation* wherever it is called: as a module, as a function, in place,
reused, as ReLU6 or as a clamp at zero. The rows of a batch come ordered relevance | plain | guided | deconvnet.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .rules import Relevance, Rule

aten = torch.ops.aten


class Rectifier(NamedTuple):
    """A call that is a ReLU: its input, its upper bound if it has one, and whether it writes over its input.

    `own` is the function itself where its gradient at the bounds differs from that of torch's ReLU (clamp passes it
    at zero, maximum halves it): rows with the plain rule keep it.
    """

    x: Tensor
    top: float | None
    inplace: bool
    own: Callable[[Tensor], Tensor] | None = None


Reader = Callable[..., Rectifier | None]


def _relu(x: Tensor, inplace: bool = False) -> Rectifier:
    return Rectifier(x, None, inplace)


def _relu6(x: Tensor, inplace: bool = False) -> Rectifier:
    return Rectifier(x, 6.0, inplace)


def _hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Rectifier | None:
    return Rectifier(x, float(max_val), inplace) if min_val == 0 else None


def _threshold(x: Tensor, threshold: float, value: float, inplace: bool = False) -> Rectifier | None:
    return Rectifier(x, None, inplace) if threshold == 0 and value == 0 else None


def _leaky(x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Rectifier | None:
    return Rectifier(x, None, inplace) if negative_slope == 0 else None


def _clamp(x: Tensor, min: Any = None, max: Any = None, inplace: bool = False) -> Rectifier | None:
    if isinstance(min, Tensor) or isinstance(max, Tensor) or min is None or min != 0:
        return None
    top = None if max is None else float(max)
    return Rectifier(x, top, inplace, lambda part: part.clamp(0, top))


def _larger(function: Callable[..., Tensor]) -> Reader:
    """Reads maximum(x, 0) or maximum(0, x), where the zero is a tensor that changes neither shape nor type."""

    def reader(x: Any, other: Any = None, *args: Any, **kwargs: Any) -> Rectifier | None:
        if args or kwargs or not isinstance(other, Tensor):
            return None  # This call takes the maximum along a dimension, and is no ReLU.
        for a, zero in ((x, other), (other, x)):
            fits = torch.result_type(a, zero) == a.dtype and torch.broadcast_shapes(a.shape, zero.shape) == a.shape
            if fits and a.requires_grad and not zero.requires_grad and not bool(zero.any()):
                return Rectifier(a, None, False, lambda part: function(part, part.new_zeros(())))
        return None

    return reader


def _in_place(reader: Reader) -> Reader:
    return lambda *args, **kwargs: reader(*args, **kwargs, inplace=True)


nn = torch._C._nn
READERS: Mapping[Any, Reader] = {
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    torch.relu_: _in_place(_relu),
    Tensor.relu_: _in_place(_relu),
    F.relu6: _relu6,
    nn.relu6: _relu6,
    nn.relu6_: _in_place(_relu6),
    F.hardtanh: _hardtanh,
    nn.hardtanh: _hardtanh,
    nn.hardtanh_: _in_place(_hardtanh),
    F.threshold: _threshold,
    torch.threshold: _threshold,
    torch.threshold_: _in_place(_threshold),
    F.leaky_relu: _leaky,
    nn.leaky_relu: _leaky,
    nn.leaky_relu_: _in_place(_leaky),
    torch.maximum: _larger(torch.maximum),
    Tensor.maximum: _larger(torch.maximum),
    torch.max: _larger(torch.maximum),
    Tensor.max: _larger(torch.maximum),
    torch.fmax: _larger(torch.fmax),
    Tensor.fmax: _larger(torch.fmax),
    torch.clamp: _clamp,
    Tensor.clamp: _clamp,
    torch.clamp_: _in_place(_clamp),
    Tensor.clamp_: _in_place(_clamp),
    torch.clip: _clamp,
    Tensor.clip: _clamp,
    torch.clip_: _in_place(_clamp),
    Tensor.clip_: _in_place(_clamp),
    torch.clamp_min: _clamp,
    Tensor.clamp_min: _clamp,
    torch.clamp_min_: _in_place(_clamp),
    Tensor.clamp_min_: _in_place(_clamp),
}


def read(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Rectifier | None:
    """The call as a ReLU, or None where it is none."""
    reader = READERS.get(func)
    if reader is None:
        return None
    named = {name: value for name, value in kwargs.items() if name != "input"}
    return reader(*((kwargs["input"], *args) if "input" in kwargs else args), **named)


def _forward(x: Tensor, top: float | None, inplace: bool) -> Tensor:
    if inplace:  # Code that calls relu_ as a statement relies on the write.
        return torch.relu_(x) if top is None else F.hardtanh(x, 0.0, top, inplace=True)
    return torch.relu(x) if top is None else F.hardtanh(x, 0.0, top)


class _Rows(NamedTuple):
    """Where the rows of the plain, the guided and the deconvnet rule begin, in that order; relevance comes first."""

    plain: int
    guided: int
    deconvnet: int


class _RuledReLU(torch.autograd.Function):
    """ReLU whose backward follows the rule of each row; [N, ...] -> [N, ...]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float | None, inplace: bool, rows: _Rows) -> Tensor:
        """Computes by the kernels of the plain ReLU, so that the bits are the same."""
        factor = None  # How much larger the relevance of y is than its share by the gradient, where y is clipped.
        if rows.plain and top is not None:
            factor = top / x[: rows.plain].clamp_min(top)
        y = _forward(x, top, inplace)
        if inplace:
            ctx.mark_dirty(x)
        ctx.save_for_backward(y, factor)  # The sign of y is that of x, and the next operation keeps y anyway.
        ctx.top, ctx.rows = top, rows
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Plain: forward mask; guided: forward and gradient mask; deconvnet: gradient mask; relevance: see `factor`."""
        (y, factor), (g,) = ctx.saved_tensors, grads
        r, a, b = ctx.rows
        out = torch.empty_like(g)
        if ctx.top is None:
            aten.threshold_backward.grad_input(g[:b], y[:b], 0, grad_input=out[:b])
        else:
            aten.hardtanh_backward.grad_input(g[r:b], y[r:b], 0.0, ctx.top, grad_input=out[r:b])
            aten.threshold_backward.grad_input(g[:r], y[:r], 0, grad_input=out[:r])
        if factor is not None:
            out[:r] *= factor
        out[a:b].clamp_min_(0)
        torch.clamp_min(g[b:], 0, out=out[b:])
        return out, None, None, None


RULED = _RuledReLU.__name__  # The name of its nodes in autograd's graph.


class ReLURules(TorchFunctionMode):
    """Applies `rules`, one per row and ordered as by `rules.place`, to every ReLU called inside."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        super().__init__()
        self.rows = len(rules)
        relevance = sum(isinstance(rule, Relevance) for rule in rules)
        guided = relevance + sum(rule == "plain" for rule in rules)
        self._starts = _Rows(relevance, guided, guided + sum(rule == "guided" for rule in rules))
        self.caught = 0  # The number of ReLUs that a rule was applied to.

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replaces a ReLU by its ruled twin; leaves everything else alone."""
        call = read(func, args, kwargs or {})
        if call is None or (self._starts.guided == self.rows and call.top is None and call.own is None):
            return func(*args, **(kwargs or {}))  # Relevance follows the gradient of a ReLU without an upper bound.
        if not (torch.is_grad_enabled() and call.x.requires_grad):
            return _forward(*call[:3])
        if call.x.shape[0] != self.rows:
            raise ValueError(f"a ReLU sees {call.x.shape[0]} rows where the batch has {self.rows}")
        self.caught += 1
        if call.own is not None and self._starts.plain < self._starts.guided:
            return self._in_parts(call.x, call.top, call.inplace, call.own)
        return _RuledReLU.apply(*call[:3], self._starts)

    def _in_parts(self, x: Tensor, top: float | None, inplace: bool, own: Callable[[Tensor], Tensor]) -> Tensor:
        """Computes the rows with the plain rule by the function itself, and the others by their rules."""
        source = x.clone() if inplace else x
        relevance, guided, deconvnet = self._starts
        parts = [own(source[relevance:guided])]
        if relevance:
            parts.insert(0, _RuledReLU.apply(source[:relevance], top, False, _Rows(relevance, relevance, relevance)))
        if guided < self.rows:
            parts.append(_RuledReLU.apply(source[guided:], top, False, _Rows(0, 0, deconvnet - guided)))
        y = torch.cat(parts)
        return x.copy_(y) if inplace else y
