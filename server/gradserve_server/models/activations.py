"""Which ReLUs the rules of `relu.py` reach, and which other activations a network has.

Both are read from the graph that autograd builds: it names every function that the gradient really passes, however it
was called: as a module, as a function, in TorchScript, or inside a `torch.autograd.Function` of the author's own.
"""

import re
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .out_of_memory import is_out_of_memory
from .outputs import PLAIN, Head
from .relu import RULED, ReLURules

Node = Any  # A torch.autograd.graph.Node, with the attributes of its kind.

UNREACHED = "a ReLU that no rule can reach"
MASK = "a mask as a factor, as in x * (x > 0)"

# Functions of one number that are no ReLU, by the name of their node without "Backward".
ACTIVATIONS = {
    "Silu": "SiLU",
    "Gelu": "GELU",
    "Hardswish": "Hardswish",
    "Celu": "CELU",
    "PreluKernel": "PReLU",
    "RreluWithNoise": "RReLU",
    "Mish": "Mish",
    "Tanh": "Tanh",
    "Softplus": "Softplus",
    "LogSigmoid": "LogSigmoid",
    "Hardshrink": "Hardshrink",
    "Softshrink": "Softshrink",
    "Maximum": "maximum",
    "CopySlices": "an operation that writes into a part of a tensor",
    "Minimum": "minimum",
    "Fmax": "fmax",
    "Fmin": "fmin",
    "Abs": "abs",
    "Sign": "sign",
    "Sgn": "sign",
    "Heaviside": "heaviside",
    "Erf": "erf",
    "Sin": "sin",
    "Cos": "cos",
    "Atan": "atan",
    "Sinh": "sinh",
    "Asinh": "asinh",
    "Log1P": "log1p",
    "Expm1": "expm1",
    "Relu": UNREACHED,
}

# Nodes that hand on one tensor, shifted, scaled or in another shape.
PASSING = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "View", "UnsafeView", "ReshapeAlias", "Alias", "Expand", "Unsqueeze"}
    | {"Squeeze", "Permute", "Transpose", "T", "Clone", "ToCopy", "UpsampleNearest2D", "UpsampleBilinear2D"}
)
# Nodes that are no function of one number: sums, norms, pooling, attention, and others that only move numbers. What is
# not among them is named in the card, as it may hide a ReLU.
HARMLESS_NAMES = """
    AccumulateGrad Addmm Addbmm Baddbmm Bmm Mm Mv Dot Matmul Linear Bilinear Einsum Convolution
    MkldnnConvolution CudnnConvolution SlowConv2D ConvDepthwise2D Addcmul Addcdiv NativeBatchNorm CudnnBatchNorm
    MiopenBatchNorm BatchNorm NativeGroupNorm NativeLayerNorm FusedRmsNorm RmsNorm LinalgVectorNorm Norm Mean
    Sum Nansum Std Var StdMean VarMean Sqrt Rsqrt Pow Reciprocal Exp Log Softmax LogSoftmax Logsumexp Cumsum
    Prod AdaptiveAvgPool2D AdaptiveAvgPool1D AdaptiveAvgPool3D AvgPool2D AvgPool3D MaxPool2DWithIndices
    AdaptiveMaxPool2D FractionalMaxPool2D Max Amax Min Amin GridSampler2D AffineGridGenerator Cat Stack Split
    SplitWithSizes Unbind Select Slice Narrow Chunk Roll Flip Tile AsStrided AsStridedScatter
    SelectScatter SliceScatter Copy Repeat ConstantPadNd ReflectionPad2D ReflectionPad1D ReplicationPad2D Im2Col
    Col2Im Unfold Fold PixelShuffle PixelUnshuffle ChannelShuffle Index IndexSelect IndexAdd Embedding Diagonal
    UpsampleBicubic2D UpsampleLinear1D UpsampleTrilinear3D UpsampleBilinear2DAa UpsampleBicubic2DAa Dropout
    NativeDropout FftR2C FftC2R FftC2C ViewAsReal ViewAsComplex Real Imag Conj Detach Flatten Unflatten Movedim
    Swapaxes Where MaskedFill Clamp ClampMin ClampMax
"""
HARMLESS = PASSING | frozenset(HARMLESS_NAMES.split())
HARMLESS_PREFIXES = ("ScaledDotProduct", "Foreach", "Fft")
SELF_GATED = {"Sigmoid": "SiLU", "Hardsigmoid": "Hardswish"}


@dataclass(frozen=True)
class Activations:
    """The number of ReLUs that rules reach, other activations by name, and why the rules do not apply (or empty)."""

    relus: int
    others: tuple[str, ...]
    refused: str = ""


def activations(network: nn.Module, example: Tensor, logits: Tensor, head: Head = PLAIN) -> Activations:
    """Runs the network on `example` under the guided rule; `logits` are what it gives without."""
    rules = ReLURules(["guided"] * len(example))
    try:
        with rules:
            ruled = head.run(network, example.detach().requires_grad_())
        with ReLURules(["guided"]):  # A first dimension that only happens to be as long as the batch is found so.
            head.run(network, example[:1].detach().requires_grad_())
    except Exception as error:
        if is_out_of_memory(error):
            raise  # That says nothing about the network.
        return Activations(0, (), f"guided rules cannot be put on its ReLUs: {error}")
    if not ruled.requires_grad:
        return Activations(0, (), "its output has no gradient by the image")
    others = tuple(sorted(_other_activations(ruled.grad_fn)))
    if rules.caught == 0:
        instead = [name for name in others if name not in NO_RELU]
        hint = f" that guided rules can reach, but {', '.join(instead)}" if instead else ""
        return Activations(0, others, f"it has no ReLU{hint}")
    if not torch.allclose(ruled, logits, rtol=1e-4, atol=1e-5):
        return Activations(
            rules.caught, others, "its answers change when its ReLUs are watched, so guided rules cannot be trusted"
        )
    return Activations(rules.caught, others)


def _other_activations(root: Node) -> set[str]:
    users = users_of(root)
    return {name for node in users if (name := _name(node, users))}


def users_of(root: Node) -> dict[Node, list[Node]]:
    """Every node of the graph, with the nodes that take its operation's result."""
    users: dict[Node, list[Node]] = defaultdict(list)
    users[root] = []
    waiting = deque([root])
    while waiting:
        node = waiting.popleft()
        for source, _ in node.next_functions:
            if source is not None:
                if source not in users:
                    waiting.append(source)
                users[source].append(node)
    return users


def kind_of(node: Node) -> str:
    """The name of a node's operation: "Relu" for ReluBackward0."""
    return re.sub(r"Backward\d*$", "", str(node.name()).rpartition("::")[2])


def _name(node: Node, users: Mapping[Node, list[Node]]) -> str:
    """The name of the activation that the node stands for, or empty."""
    kind = kind_of(node)
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return "" if kind == RULED else f"{kind} (an autograd function of its own)"
    if kind in SELF_GATED:
        return _sigmoid(node, kind, users)
    if kind in READ:
        return READ[kind](node)
    if "jit" in node.name() or kind.startswith("Compiled"):
        return f"{kind} (compiled code)"
    if kind in ACTIVATIONS:
        return ACTIVATIONS[kind]
    return "" if kind in HARMLESS or kind.startswith(HARMLESS_PREFIXES) else kind


def _leaky(node: Node) -> str:
    return "LeakyReLU" if node._saved_negative_slope else UNREACHED


def _elu(node: Node) -> str:
    return "ELU" if node._saved_scale == 1 else "SELU"


def _threshold(node: Node) -> str:
    return "Threshold" if node._saved_threshold else UNREACHED


def _bounded(low: Any, high: Any) -> str:
    """The name of a clamp: a ReLU if zero is a bound, a hard tanh if zero is between its bounds, otherwise none."""
    low, high = (None if v is None else float(torch.as_tensor(v).max()) for v in (low, high))
    if low == 0 or high == 0:
        return UNREACHED
    return "Hardtanh" if low is not None and low < 0 and high is not None else ""


def _masked(mask: Tensor) -> str:
    """A name for a mask that was made from the images, as it differs between the two; otherwise empty."""
    return "" if mask.dim() == 0 or len(mask) != 2 or torch.equal(mask[0], mask[1]) else "a mask"


def _factor(edges: list[Any], factors: list[Any]) -> str:
    """MASK where a factor is like (x > 0): without a gradient, of two values, and not the same for both images."""
    for edge, factor in zip(edges, factors, strict=True):
        if edge is None and isinstance(factor, Tensor) and factor.dim() > 1 and _masked(factor):
            values = factor.unique()
            if len(values) == 2 and bool(((values == 0) | values.isinf()).any()):
                return MASK
    return ""


def _product(node: Node) -> str:
    """The name of a product of two tensors, or of one that is added to something."""
    edges = [source for source, _ in node.next_functions][-2:]
    if len(edges) < 2 or all(edges) or not any(edges):
        return ""
    names = ("_saved_tensor1", "_saved_tensor2") if kind_of(node) == "Addcmul" else ("_saved_self", "_saved_other")
    return _factor(edges, [getattr(node, name) for name in names])


def _largest(node: Node) -> str:
    """The name of a maximum along a dimension of a stack, where a part of the stack has no gradient."""
    ((source, _),) = node.next_functions
    stacked = kind_of(source) in ("Stack", "Cat") and any(part is None for part, _ in source.next_functions)
    return "maximum" if stacked else ""


READ: Mapping[str, Callable[[Node], str]] = {
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "Threshold": _threshold,
    "Hardtanh": lambda node: _bounded(node._saved_min_val, node._saved_max_val),
    "ClampMin": lambda node: _bounded(getattr(node, "_saved_min", None), None),
    "ClampMax": lambda node: _bounded(None, getattr(node, "_saved_max", None)),
    "Clamp": lambda node: _bounded(node._saved_min, node._saved_max),
    "Where": lambda node: _masked(node._saved_condition) and "where",
    "MaskedFill": lambda node: _masked(node._saved_mask) and "masked_fill",
    "MaskedScatter": lambda node: _masked(node._saved_mask) and "masked_scatter",
    "IndexPut": lambda node: "index_put",
    "Mul": _product,
    "Div": _product,
    "Addcmul": _product,
    "Amax": _largest,
    "Max": _largest,
}
NO_RELU = {"LeakyReLU", "ELU", "SELU", "Threshold", "Hardtanh", *SELF_GATED, *SELF_GATED.values()} | (
    set(ACTIVATIONS.values()) - {UNREACHED, "maximum", "minimum", "fmax", "fmin", "abs", "sign", "heaviside"}
)


def _sigmoid(node: Node, kind: str, users: Mapping[Node, list[Node]]) -> str:
    """A gate (a factor of another tensor, as in squeeze-excite) is no activation; a factor of its own input is one."""
    ends = [end for end in _ends(node, users) if end is not None]  # None stands for the network's output.
    inputs = {_origin(source) for source, _ in node.next_functions}
    for end in ends:
        factors = [source for source, _ in end.next_functions if source is not None]
        if kind_of(end) != "Mul" or len(factors) != 2:
            return kind  # Its result goes into a layer.
        if inputs & {_origin(source) for source in factors}:
            return SELF_GATED[kind]
    return ""


def _ends(node: Node, users: Mapping[Node, list[Node]]) -> list[Node | None]:
    """The first nodes after this one that do more than hand it on; None for the network's output."""
    ends: list[Node | None] = []
    waiting = [node]
    while waiting:
        after = users[waiting.pop()]
        ends += [] if after else [None]
        for user in after:
            passes = kind_of(user) in PASSING and sum(source is not None for source, _ in user.next_functions) == 1
            (waiting if passes else ends).append(user)
    return ends


def _origin(node: Node) -> Node:
    """Where a tensor comes from, before shifts, scales and changes of shape."""
    while node is not None and kind_of(node) in PASSING:
        sources = [source for source, _ in node.next_functions if source is not None]
        if len(sources) != 1:
            break
        node = sources[0]
    return node
