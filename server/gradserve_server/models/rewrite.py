"""What makes a recorded pass faster and leaves its bits alone, and the pass cut in two."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ..accel.convolutions import SCATTER

Node = Any  # fx.Node; what its arguments may be has too many types to be of use

aten = torch.ops.aten
RELUS = (aten.relu.default, aten.relu_.default)
POOL, POOL_BACKWARD = aten.max_pool2d_with_indices.default, aten.max_pool2d_with_indices_backward.default
SLICE, MASK, SUM, ADD = aten.slice.Tensor, aten.threshold_backward.default, aten.add.Tensor, aten.add_.Tensor


def _onednn(name: str) -> Any:
    """One of its operations, or None where torch was built without."""
    return getattr(getattr(torch.ops.mkldnn, name, None), "default", None)


OWNERS = (  # operations whose output is nobody else's memory
    _onednn("_convolution_pointwise"),
    _onednn("_convolution_transpose_pointwise"),
    aten.convolution.default,
    aten.clone.default,
    aten._to_copy.default,
    POOL_BACKWARD,
    MASK,
    SUM,
)


def improve(graph: fx.Graph) -> None:
    """All there is. Nodes' meta says in "like" what they give."""
    for node in list(graph.nodes):
        if node.target in RELUS and _owned(node.args[0]) and _only_user(node.args[0], node):
            node.target = aten.relu_.default  # not within oneDNN's convolution: its ReLU makes zeros of NaN
            _pool_first(graph, node)
    owned = {node for node in graph.nodes if _owned(node)}  # before any of them is told to write elsewhere
    for node in graph.nodes:
        if node.target in (MASK, SUM) and not node.kwargs:
            _in_place(node, owned)
    for node in list(graph.nodes):
        if node.target is ADD and not node.kwargs and getattr(node.args[1], "target", None) is SCATTER:
            _sum_where_seen(graph, node)
    graph.eliminate_dead_code()


def _only_user(node: Node, user: Node) -> bool:
    return list(node.users) == [user]


def _owned(node: Node) -> bool:
    if node.target is operator.getitem:
        return node.args[0].target is aten.convolution_backward.default
    return node.target in OWNERS


def _add(graph: fx.Graph, after: Node, target: Any, args: tuple[Any, ...], like: Node) -> Node:
    with graph.inserting_after(after):
        node = graph.call_function(target, args)
    node.meta["like"] = like.meta["like"]
    return node


def _pool_first(graph: fx.Graph, relu: Node) -> None:
    """The maximum of ReLUs is the ReLU of the maximum, and there are fewer maxima."""
    by_target: dict[Any, list[Node]] = {POOL: [], POOL_BACKWARD: [], MASK: []}
    for user in relu.users:
        by_target.setdefault(user.target, []).append(user)
    (x,), (pools, backs, masks) = relu.args, (by_target[target] for target in (POOL, POOL_BACKWARD, MASK))
    pairs = [(back, mask) for back, mask in zip(backs, masks, strict=False) if mask.args[:2] == (back, relu)]
    if len(by_target) > 3 or len(pools) != 1 or not len(backs) == len(masks) == len(pairs):
        return
    if not all(_only_user(back, mask) for back, mask in pairs):
        return
    maxima = next(user for user in pools[0].users if user.args[1] == 0)
    pools[0].replace_input_with(relu, x)
    after = _add(graph, maxima, aten.relu_.default, (maxima,), maxima)
    maxima.replace_all_uses_with(after, delete_user_cb=lambda user: user is not after)
    for back, mask in pairs:
        grad = back.args[0]
        masked = _add(graph, grad, MASK, (grad, after, 0), grad)
        back.args = (masked, x, *back.args[2:])
        mask.replace_all_uses_with(back)
        graph.erase_node(mask)
    graph.erase_node(relu)


def _in_place(node: Node, owned: set[Node]) -> None:
    """Sums and masks over an input that nobody needs any more."""
    first, second = node.args[:2]
    for mine, other in [(first, second), (second, first)] if node.target is SUM else [(first, second)]:
        if mine in owned and _only_user(mine, node) and _alike(mine, other):
            if node.target is SUM:
                node.target, node.args = ADD, (mine, other)
            else:
                node.target, node.kwargs = aten.threshold_backward.grad_input, {"grad_input": mine}
            return


def _sum_where_seen(graph: fx.Graph, total: Node) -> None:
    """Makes main += scatter(seen) main[pixels seen] += seen; elsewhere there are zeros to add."""
    main, scattered = total.args
    seen, _, (down, across) = scattered.args
    if not (_alike(main, scattered) and _only_user(seen, scattered)):
        return
    lines = _add(graph, total, SLICE, (main, 2, 0, None, down), seen)
    pixels = _add(graph, lines, SLICE, (lines, 3, 0, None, across), seen)
    _add(graph, pixels, ADD, (pixels, seen), seen)
    total.replace_all_uses_with(main)
    graph.erase_node(total)


def _alike(node: Node, other: Any) -> bool:
    if not isinstance(other, fx.Node):
        return False
    a, b = node.meta["like"], other.meta["like"]
    return bool((a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride()))


Piece = Callable[..., tuple[Tensor, ...]]


def split(graph: fx.Graph, constants: Mapping[str, Tensor]) -> tuple[Piece, Piece, Piece]:
    """A graph of (rows, images, upstream) -> (logits, gradient) as three functions.

    Of (rows, images) -> (logits,); of the same -> (logits, *kept); of (rows, upstream, kept) -> (gradient,), which
    empties the list `kept`.
    """
    rows, images, upstream = (node for node in graph.nodes if node.op == "placeholder")
    output: Node = next(node for node in graph.nodes if node.op == "output")
    logits, grad = output.args[0]
    later = {upstream}
    for node in graph.nodes:
        if node is not output and later.intersection(node.all_input_nodes):
            later.add(node)
    body = [node for node in graph.nodes if node.op in ("get_attr", "call_function")]
    shared = {rows, *(node for node in body if node.op == "get_attr" or node.target in (operator.mul, operator.add))}
    forward = [node for node in body if node not in later]
    backward = [node for node in body if node in later or node in shared]
    kept = [node for node in forward if node not in shared and later.intersection(node.users)]
    kept += [images] if later.intersection(images.users) else []
    return (
        _function(constants, [rows, images], forward, [logits]),
        _function(constants, [rows, images], forward, [logits, *kept]),
        _function(constants, [rows, upstream], backward, [grad], kept),
    )


def _function(
    constants: Mapping[str, Tensor],
    inputs: Sequence[Node],
    body: Sequence[Node],
    outputs: Sequence[Node],
    kept: Sequence[Node] = (),
) -> Piece:
    graph = fx.Graph()
    known = {node: graph.placeholder(node.name) for node in inputs}
    if kept:
        box = graph.placeholder("kept")
        for node in reversed(kept):
            known[node] = graph.call_method("pop", (box,))  # nobody else holds it then
    for node in body:
        known[node] = graph.node_copy(node, known.__getitem__)
        known[node].meta.clear()  # the tensors that it held
    graph.output(tuple(known[node] for node in outputs))
    graph.eliminate_dead_code()
    return fx.GraphModule(dict(constants), graph).forward
