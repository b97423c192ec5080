"""Whether relevance can be propagated through a network: every operation that its gradient passes must have a rule.

That is read from the graph that autograd builds under the rules, so that nothing is trusted for its name: an operation
that the mode did not reach stands in the graph as it is.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..activations import ACTIVATIONS, PASSING, UNREACHED, kind_of, users_of
from ..out_of_memory import is_out_of_memory
from ..outputs import Head
from ..relu import RULED, ReLURules
from ..rules import Relevance, Rule, place
from .convolutions import RuledConvolution
from .mode import SCORE_FACTOR, VALUE_FACTOR, RelevanceRules
from .transformers import RuledGELU, RuledLayerNorm, Scaled

Node = Any  # A torch.autograd.graph.Node, with the attributes of its kind.

LARGEST_DIFFERENCE = 1e-3  # Between a row's gradient alone and in company, by its norm: rounding is far below.

# Nodes for which the plain gradient is the rule: linear ones, those that choose, and softmax, by AttnLRP.
MOVING = """
    AccumulateGrad Cat Stack Split SplitWithSizes Unbind Select Slice Narrow Chunk Roll Flip AsStrided Copy
    AsStridedScatter SelectScatter SliceScatter Repeat ConstantPadNd ReflectionPad1D ReflectionPad2D ReplicationPad2D
    Im2Col Unfold Fold PixelShuffle PixelUnshuffle ChannelShuffle Index IndexSelect Diagonal Flatten Unflatten Movedim
    Swapaxes
"""
LINEAR = """
    Sum Mean AvgPool1D AvgPool2D AvgPool3D AdaptiveAvgPool1D AdaptiveAvgPool2D AdaptiveAvgPool3D UpsampleLinear1D
    UpsampleTrilinear3D UpsampleBicubic2D UpsampleBilinear2DAa UpsampleBicubic2DAa UpsampleNearest1D UpsampleNearest3D
    UpsampleNearestExact1D UpsampleNearestExact2D UpsampleNearestExact3D
"""
CHOOSING = """
    Relu LeakyRelu MaxPool2DWithIndices MaxPool3DWithIndices AdaptiveMaxPool2D Max Amax Min Amin Softmax SafeSoftmax
"""
FREE = PASSING | frozenset((MOVING + LINEAR + CHOOSING).split())
# Products, with the places of their factors among their inputs. If one of them depends on the image, it is linear.
LAST_TWO, ATTENTION = slice(-2, None), slice(3)
PRODUCTS = dict.fromkeys(("Mul", "Div", "Addmm", "Mm", "Mv", "Bmm", "Baddbmm", "Dot"), LAST_TWO)
PRODUCTS |= dict.fromkeys(("Linear", "PreluKernel"), slice(2))
ELEMENTWISE = frozenset(("Mul", "Div"))
PROJECTIONS = frozenset(("Addmm", "Mm", "Bmm", "Linear"))
PASSED = PASSING | PROJECTIONS | {"Select", "Slice", "Unbind", "Split", "SplitWithSizes"}  # Between factors and scales.
SOFTMAX = frozenset(("Softmax", "SafeSoftmax"))
SCORES = frozenset(("Bmm", "Baddbmm"))  # Products of queries and keys.
OURS = frozenset((RULED, *(each.__name__ for each in (RuledConvolution, RuledGELU, RuledLayerNorm, Scaled))))
BATCH_NORM = "a BatchNorm that could not be folded into a convolution"
CONVOLUTION = "a convolution that no rule reaches (transposed, compiled, or with a weight that depends on the image)"
PRODUCT = "a product of two activations, as of squeeze-and-excitation"
MOVES = frozenset(("Clone", "ConstantPadNd", "ReflectionPad2D", "ReplicationPad2D", "View"))


class Applicability(NamedTuple):
    """Why relevance does not apply to a network, and why the input rules do not; empty if they do."""

    refused: str
    input_refused: str


def applicability(network: nn.Module, example: Tensor, head: Head) -> Applicability:
    """Runs the network on `example` [2, C, H, W] under the rules, and reads the graph of its logits."""
    rule = Relevance(input="flat")
    try:
        # A first dimension that only happens to be as long as the batch cannot have rows of batches of two lengths.
        _run(network, torch.cat([example, example[:1]]), head, [rule] * (len(example) + 1))
        logits, mode = _run(network, example, head, [rule] * len(example))
        if not logits.requires_grad:
            return _refused("its output has no gradient by the image")
        users = users_of(logits.grad_fn)
        unruled = sorted({name for node in users if (name := _unruled(node))})
        if unruled:
            return _refused(f"there is no rule for what it has: {', '.join(unruled)}")
        if not any(isinstance(node, torch.autograd.function.BackwardCFunction) for node in users):
            return _refused("it has no layer that its rules change")
        _check_unwritten(users)
        if mode.several and (difference := _company(network, example, head)) > LARGEST_DIFFERENCE:
            return _refused(f"its images do not lie one after another: in company a row is off by {difference:.1g}")
    except Exception as error:
        if is_out_of_memory(error):
            raise  # That says nothing about the network.
        return _refused(f"its rules cannot be put on the network: {error}")
    return Applicability("", _input_refused(users))


def _refused(why: str) -> Applicability:
    return Applicability(why, why)


def _run(network: nn.Module, x: Tensor, head: Head, rules: list[Rule]) -> tuple[Tensor, RelevanceRules]:
    """The logits under rules that are ordered as by `place`; the images become x, which needs a gradient."""
    relevance = [rule for rule in rules if isinstance(rule, Relevance)]
    mode = RelevanceRules(relevance, len(rules))
    images = x.detach().requires_grad_() if not x.requires_grad else x
    with ReLURules(rules), mode:
        bound = images.new_zeros(images.shape[1], 1, 1)
        mode.see_input(images, bound, bound + 1)
        logits = head.run(network, images)
    return logits, mode


def _unruled(node: Node) -> str:
    """The name of an operation that has no rule, or empty."""
    kind = kind_of(node)
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return "" if kind in OURS else f"{kind} (an autograd function of its own)"
    if "jit" in node.name() or kind.startswith("Compiled"):
        return f"{kind} (compiled code)"
    if kind.startswith("ScaledDotProduct") or kind in PRODUCTS:
        return _unruled_product(node, kind)
    if kind in FREE:
        return ""
    if "BatchNorm" in kind or "Conv" in kind:
        return BATCH_NORM if "BatchNorm" in kind else CONVOLUTION
    name = ACTIVATIONS.get(kind, kind)
    return f"{kind} (called in a way that no rule reaches)" if name == UNREACHED else name


def _unruled_product(node: Node, kind: str) -> str:
    """The name of a product whose factors depend on the image, unless its gradients are scaled; or empty."""
    factors = [source for source, _ in node.next_functions][PRODUCTS.get(kind, ATTENTION)]
    if kind == "Div" and factors[1] is not None:
        return "a division by an activation"
    if sum(each is not None for each in factors) < 2:
        return ""
    return PRODUCT if kind in ELEMENTWISE or not _all_scaled(factors) else ""


def _all_scaled(factors: list[Node | None], factor: float | None = None) -> bool:
    """Whether the gradients of these tensors are scaled, by `factor` if given, before anything but PASSED nodes."""
    return all(node is None or _comes_scaled(node, factor) for node in factors)


def _comes_scaled(node: Node | None, factor: float | None) -> bool:
    while node is not None:
        if kind_of(node) == Scaled.__name__:
            return factor in (None, node.how[0])
        if kind_of(node) in SOFTMAX:
            return _is_scaled_score(node)
        if kind_of(node) not in PASSED:
            return False
        node = _only_source(node)
    return False


def _is_scaled_score(node: Node) -> bool:
    """Whether a softmax is that of attention as one call which returns its weights: both factors were scaled for it."""
    product = _only_source(node)
    while product is not None and kind_of(product) not in SCORES:
        product = _only_source(product) if kind_of(product) in PASSED else None
    if product is None:
        return False
    factors = [source for source, _ in product.next_functions][LAST_TWO]
    both = all(each is not None for each in factors)
    return _all_scaled(factors, SCORE_FACTOR if both else VALUE_FACTOR)


def _only_source(node: Node) -> Node | None:
    sources = [source for source, _ in node.next_functions if source is not None]
    return sources[0] if len(sources) == 1 else None


def _check_unwritten(users: Mapping[Node, list[Node]]) -> None:
    """Raises RuntimeError where the network writes over what a rule keeps for the backward pass."""
    for node in users:
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            _ = node.saved_tensors


def _company(network: nn.Module, example: Tensor, head: Head) -> float:
    """How far gradients of a ruled and a plain row in one batch are from those of each row alone."""
    rules: list[Rule] = [Relevance(), "plain"]

    def gradient(x: Tensor, own: list[Rule]) -> Tensor:
        x = x.detach().clone().requires_grad_()
        logits = head.run(network, x) if own == ["plain"] else _run(network, x, head, own)[0]
        return torch.autograd.grad(logits.amax(1).sum(), x)[0]

    assert sorted(rules, key=place) == rules
    together = gradient(example[:2], rules)
    alone = torch.cat([gradient(example[i : i + 1], [rule]) for i, rule in enumerate(rules)])
    off = (together - alone).flatten(1).norm(dim=1) / alone.flatten(1).norm(dim=1)
    return float(off.nan_to_num(torch.inf).max())


def _input_refused(users: Mapping[Node, list[Node]]) -> str:
    """Why the input rules do not apply: something else than convolutions takes the image."""
    leaves = [node for node in users if kind_of(node) == "AccumulateGrad"]
    waiting = [user for leaf in leaves for user in users[leaf]]
    while waiting:
        node = waiting.pop()
        if kind_of(node) in MOVES:
            waiting += users[node]
        elif not getattr(node, "takes_picture", False):
            return f"its image goes into something else than a convolution ({kind_of(node)})"
    return ""
