"""What a function asks of torch, written down while it runs on two and on five rows, as a graph for any number."""

import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

aten = torch.ops.aten
SAME = (aten.alias.default, aten.detach.default)  # their output is their input
CHOICES = ("aten::_fused_sdp_choice", "aten::_nnpack_available")  # numbers that follow from shapes and the machine
FEW, MORE = 2, 5  # rows; of a single one the strides are ambiguous, and torch takes other kernels


class NotStraight(Exception):
    """The function does something else for other numbers of rows, or for other values, as far as can be seen."""


class Call(NamedTuple):
    """One operation."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


class Tape(TorchDispatchMode):
    """Writes down the operations called inside, below autograd, and keeps their tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls it as well."""
        out = func(*args, **(kwargs or {}))
        if _by_value(func, args, out):
            raise NotStraight(f"it looks at values ({func})")
        self.calls.append(Call(func, args, kwargs or {}, out))
        return out


def _by_value(func: Any, args: Any, out: Any) -> bool:
    """Whether Python learns a number, or a size that depends on numbers."""
    if any(isinstance(leaf, bool | int | float) for leaf in tree_flatten(out)[0]):
        return func.name() not in CHOICES
    if func is aten.index.Tensor:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return torch.Tag.dynamic_output_shape in func.tags


class Recorded(NamedTuple):
    """A graph whose first placeholder is the number of rows, and its constants by name.

    Each node's meta has "like", what it gave for MORE rows, until that is forgotten.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]


def record(function: Callable[..., tuple[Tensor, ...]], examples: Callable[[int], tuple[Tensor, ...]]) -> Recorded:
    """Runs `function` on `examples` of FEW and of MORE rows. Raises NotStraight."""
    function(*examples(FEW))  # what is made when first used is made now
    runs = []
    for rows in (FEW, MORE):
        inputs = examples(rows)
        with Tape() as tape:
            outputs = function(*inputs)
        runs.append(Run(tape.calls, inputs, outputs))
    writer = _Writer(*runs)
    try:
        return writer.recorded()
    except NotStraight:
        forget(writer.graph)
        raise


def forget(graph: fx.Graph) -> None:
    """Lets go of what its nodes gave: graphs are circular, and live until they are looked for."""
    for node in graph.nodes:
        node.meta.clear()


class Run(NamedTuple):
    """What happened for one number of rows."""

    calls: list[Call]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class _Writer:
    """Makes one graph of two runs, in which whole numbers may differ by a constant for each row."""

    def __init__(self, few: Run, more: Run) -> None:
        self._runs = (few, more)
        self.graph = fx.Graph()
        self._constants: dict[str, Tensor] = {}
        self._rows = self.graph.placeholder("rows")
        self._few: dict[int, fx.Node] = {}  # by the tensor's id, in each run
        self._more: dict[int, fx.Node] = {}
        self._fixed: dict[int, fx.Node] = {}
        self._numbers: dict[tuple[int, int], fx.Node] = {}

    def recorded(self) -> Recorded:
        """The whole."""
        few, more = self._runs
        if [call.operation for call in few.calls] != [call.operation for call in more.calls]:
            raise NotStraight("it takes other operations for other numbers of rows")
        for i, (a, b) in enumerate(zip(few.inputs, more.inputs, strict=True)):
            self._know(a, b, self.graph.placeholder(f"input_{i}"))
        for first, second in zip(few.calls, more.calls, strict=True):
            self._call(first, second)
        outputs = tuple(self._tensor(a, b) for a, b in zip(few.outputs, more.outputs, strict=True))
        self.graph.output(outputs)
        return Recorded(self.graph, self._constants)

    def _call(self, few: Call, more: Call) -> None:
        if few.operation in SAME:
            self._know(few.out, more.out, self._tensor(few.args[0], more.args[0]))
            return
        args, kwargs = self._both((few.args, few.kwargs), (more.args, more.kwargs))
        node = self.graph.call_function(few.operation, args, kwargs)
        for path, a, b in _outputs(few.out, more.out):
            part = node if path is None else self.graph.call_function(operator.getitem, (node, path))
            self._know(a, b, part)

    def _know(self, few: Tensor, more: Tensor, node: fx.Node) -> None:
        self._few[id(few)] = self._more[id(more)] = node
        node.meta["like"] = more

    def _both(self, few: Any, more: Any) -> Any:
        """One set of arguments for two."""
        leaves, shape = tree_flatten(few)
        others, other_shape = tree_flatten(more)
        if shape != other_shape:
            raise NotStraight("it gives other arguments for other numbers of rows")
        return tree_unflatten([self._leaf(a, b) for a, b in zip(leaves, others, strict=True)], shape)

    def _leaf(self, few: Any, more: Any) -> Any:
        if isinstance(few, Tensor):
            return self._tensor(few, more)
        if few == more and type(few) is type(more):
            return few
        if type(few) is int is type(more):
            return self._number(few, more)
        raise NotStraight(f"it gives {few} for {FEW} rows and {more} for {MORE}")

    def _number(self, few: int, more: int) -> fx.Node:
        """A number that grows with the rows."""
        slope, rest = divmod(more - few, MORE - FEW)
        start = few - slope * FEW
        if rest:
            raise NotStraight(f"it gives {few} for {FEW} rows and {more} for {MORE}")
        if (slope, start) == (1, 0):
            return self._rows
        if (slope, start) not in self._numbers:
            with self.graph.inserting_after(self._rows):
                scaled = self.graph.call_function(operator.mul, (self._rows, slope))
            with self.graph.inserting_after(scaled):
                self._numbers[slope, start] = self.graph.call_function(operator.add, (scaled, start))
        return self._numbers[slope, start]

    def _tensor(self, few: Tensor, more: Tensor) -> fx.Node:
        node, other = self._few.get(id(few)), self._more.get(id(more))
        if node is not other:
            raise NotStraight("it mixes up its tensors for other numbers of rows")
        return self._constant(few, more) if node is None else node

    def _constant(self, few: Tensor, more: Tensor) -> fx.Node:
        """What no operation made: parameters, or weights laid out earlier."""
        if few is not more:
            raise NotStraight("it makes tensors that cannot be followed")
        if id(few) not in self._fixed:
            name = f"constant_{len(self._fixed)}"
            self._constants[name] = few
            self._fixed[id(few)] = self.graph.create_node("get_attr", name)
            self._fixed[id(few)].meta["like"] = few
        return self._fixed[id(few)]


def _outputs(few: Any, more: Any) -> Iterator[tuple[int | None, Tensor, Tensor]]:
    if isinstance(few, Tensor):
        yield None, few, more
    elif isinstance(few, tuple | list):
        for i, (a, b) in enumerate(zip(few, more, strict=True)):
            if isinstance(a, Tensor):
                yield i, a, b
