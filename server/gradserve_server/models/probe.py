"""What a few test passes show of a network: which layers run, in which order and shape, and what applies to it."""

import weakref
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .activations import activations
from .card import Layer, Layout, Tokens
from .flops import FlopCounter
from .flow import NOT_FOR_GRAD_CAM, flow
from .fold import FoldedBatchNorm
from .layouts import ROWS, Call, Reading, Sequences, Size, layout_of, map_size, read_tokens
from .outputs import PLAIN, Head
from .relevance.probe import Applicability, applicability
from .relu import read
from .taps import Place, first_input, first_tensor, version_of

RELU = "relu"  # The kind of a layer that is a ReLU called as a function.
# Modules that work on maps of the shape [n, C, h, w] alone.
CHANNELS_FIRST = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d)
COUNTED = ("Conv", "Pool", "Linear")  # Kinds of layers whose outputs are counted, where no modules are inside them.


@dataclass(frozen=True)
class Probe:
    """The layers in execution order with the place of each, and facts for the model's card."""

    layers: tuple[Layer, ...]
    places: dict[str, Place]
    aliases: dict[str, str]
    tokens: tuple[Tokens, ...]
    upstream: int
    classes: int
    grad_cam_layer: str
    relus: int
    other_activations: tuple[str, ...]
    rules_refused: str
    relevance: Applicability
    gflop: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Firing:
    """One call of a module, or of a ReLU on what it gave, and what that call made."""

    module: str
    call: int
    kind: str
    origin: str  # Class of the innermost module that made the tensor, since containers hand on their last child's.
    shape: tuple[int, ...]
    counted: bool = False
    multiply_adds: int = 0

    @property
    def relu(self) -> bool:
        """Whether it is a ReLU called as a function on what the module gave."""
        return self.kind == RELU


def probe(
    network: nn.Module,
    example: Tensor,
    tokens: Size | None = None,
    apart: Collection[Call] = frozenset(),
    head: Head = PLAIN,
) -> Probe:
    """Runs a prepared network a few times on `example` [2, 3, H, W], normalised.

    `apart`: calls of modules that do not give a row for each image, although there may be as many.
    `tokens`: the numbers of leading and trailing tokens beside the patches, where the catalogue names them.
    """
    size = (example.shape[2], example.shape[3])
    watch = _LayerWatch(size)
    logits, gflop = watch.run(network, example, head)
    acts = activations(network, example, logits, head)
    reading = read_tokens(network, example, watch.sequences.by_length, tokens)
    named = watch.named()
    places = {name: Place(item.module, "output", item.call, item.relu) for name, item in named.items()}
    outputs = head.own_scores(logits).shape[1]
    layers = [
        Layer(name, item.kind, "other", number=i)
        if (item.module, item.call) in apart
        else _layer(i, name, item, watch.layout(item), reading, outputs)
        for i, (name, item) in enumerate(named.items())
    ]
    layers = [replace(each, **_counts(named[each.name])) for each in layers]
    gradients = flow(network, example, layers, places, head)
    return Probe(
        layers=gradients.layers,
        places=places,
        aliases=aliases(network),
        tokens=tuple(reading.tokens.values()),
        upstream=gradients.upstream,
        classes=logits.shape[1],
        grad_cam_layer=gradients.grad_cam_layer,
        relus=acts.relus,
        other_activations=acts.others,
        rules_refused=acts.refused,
        relevance=applicability(network, example, head),
        gflop=gflop,
        notes=(gradients.note,) if gradients.note else (),
    )


def aliases(network: nn.Module) -> dict[str, str]:
    """The first name of each module by its other names."""
    first = {module: name for name, module in network.named_modules()}
    everywhere = network.named_modules(remove_duplicate=False)
    return {name: first[module] for name, module in everywhere if first[module] != name}


@dataclass
class _Call:
    """A call of a module that has not ended: the operations before it and inside its modules, its input's shape."""

    flops: int
    shape: tuple[int, ...] | None
    inside: int = 0


class _LayerWatch:
    """A pass without gradients: the layers that fire, in order, and the sequences among them."""

    def __init__(self, size: Size) -> None:
        self.firings: list[_Firing] = []
        self.sequences = Sequences(size)
        self._size = size
        self._channels_first: set[tuple[int, ...]] = set()
        self._calls: Counter[str] = Counter()
        self._counter = FlopCounter()
        self._open: list[_Call] = []  # The calls of modules that have begun and not ended.
        self._last: Any = None  # The last output.
        self._origin = ""  # The class of the module that made it.
        # Outputs by id: a weak reference, the tensor's version, the module's name and the index of the call.
        self._outputs: dict[int, tuple[Any, int, str, int]] = {}
        self._rectified: set[tuple[str, int]] = set()  # Module calls whose output goes into a functional ReLU.
        self._relus: dict[int, tuple[Any, _Firing]] = {}  # Outputs of functional ReLUs by id, with weak references.

    def run(self, network: nn.Module, example: Tensor, head: Head) -> tuple[Tensor, float]:
        """The logits, and the forward's cost of one image in GFLOP."""
        handles = []
        for name, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(self._on_input, with_kwargs=True))
            handles.append(module.register_forward_hook(self._on_output(name)))
        try:
            with torch.no_grad(), self._counter, _FunctionalReLUs(self):
                logits = head.run(network, example)
        finally:
            for handle in handles:
                handle.remove()
        return logits, self._counter.flops / len(example) / 1e9

    def named(self) -> dict[str, _Firing]:
        """The layers by name. One called more than once has every call by index; its plain name means the last one."""
        last = {(item.module, item.relu): item.call for item in self.firings}
        named = {}
        for item in self.firings:
            name = item.module + ("+relu" if item.relu else "")
            if self._calls[item.module] > 1:
                named[f"{name}:{item.call}"] = item
            if item.call == last[item.module, item.relu]:
                named[name] = item
        return named

    def layout(self, item: _Firing) -> Layout:
        """How an output is read; what a convolution gave is no map with its channels last, whatever their number."""
        layout = layout_of(item.shape, self._size)
        return "other" if layout == "nhwc" and item.shape in self._channels_first else layout

    def source_of(self, x: Tensor) -> tuple[str, int] | None:
        """The module call whose output x is, if x was not written over since."""
        reference, version, module, call = self._outputs.get(id(x), (lambda: None, 0, "", 0))
        return (module, call) if reference() is x and version_of(x) == version else None

    def add_relu(self, module: str, call: int, out: Tensor) -> None:
        """Adds the output of a functional ReLU as a layer, unless the module's output goes into several ReLUs.

        If a module returns that output itself, `_on_output` removes the layer again.
        """
        item = _Firing(module, call, RELU, RELU, tuple(out.shape))
        if (module, call) in self._rectified:
            self.firings = [other for other in self.firings if other != item]
            return
        self._rectified.add((module, call))
        self.firings.append(item)
        self._relus[id(out)] = (weakref.ref(out), item)

    def _on_input(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        x = first_input(args, kwargs)
        self._open.append(_Call(self._counter.flops, None if x is None else tuple(x.shape)))
        if x is not None:
            self.sequences.see(x)

    def _on_output(self, name: str) -> Any:
        def on_output(module: nn.Module, _: Any, out: Any) -> None:
            call = self._open.pop()
            flops = self._counter.flops - call.flops
            if self._open:
                self._open[-1].inside += flops
            tensor = first_tensor(out)
            if tensor is None or not name:
                return
            self.sequences.see(tensor)
            kind = module.kind if isinstance(module, FoldedBatchNorm) else type(module).__name__
            self._origin = self._origin if self._last is tensor else kind
            self._last = tensor
            reference, item = self._relus.pop(id(tensor), (None, None))
            if reference is not None and reference() is tensor and item in self.firings:
                self.firings.remove(item)
            self._outputs[id(tensor)] = (weakref.ref(tensor), version_of(tensor), name, self._calls[name])
            shape = tuple(tensor.shape)
            if isinstance(module, CHANNELS_FIRST):
                self._channels_first.add(shape)
            counted = _is_counted(module, kind, handed_on=call.shape == shape)
            facts = (kind, self._origin, shape, counted, (flops - call.inside) // 2)
            self.firings.append(_Firing(name, self._calls[name], *facts))
            self._calls[name] += 1

        return on_output


class _FunctionalReLUs(TorchFunctionMode):
    """Tells a watch of every ReLU that is called."""

    def __init__(self, watch: _LayerWatch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function, and tells the watch if it is a ReLU."""
        call = read(func, args, kwargs or {})
        source = None if call is None else self._watch.source_of(call.x)
        out = func(*args, **(kwargs or {}))
        if source is not None:
            self._watch.add_relu(*source, out)
        return out


def _is_counted(module: nn.Module, kind: str, *, handed_on: bool) -> bool:
    """Whether it is a convolution, a pool or a linear layer; `handed_on`: its output has the shape of its input.

    An adaptive pool gives such an output by doing nothing.
    """
    named = any(word in kind for word in COUNTED) and not any(module.children())
    return named and not (handed_on and kind.startswith("Adaptive"))


def _counts(item: _Firing) -> dict[str, Any]:
    """What a layer gives and computes for one image, as fields of its Layer."""
    rows, *rest = item.shape or (ROWS,)
    shape = tuple(rest) if rows == ROWS else (rows // ROWS, *rest) if rows % ROWS == 0 else item.shape
    numbers = {"values": prod(item.shape) // ROWS, "multiply_adds": item.multiply_adds // ROWS}
    return {"shape": shape, "counted": item.counted, **numbers}


def _layer(number: int, name: str, item: _Firing, layout: Layout, reading: Reading, outputs: int) -> Layer:
    shape = item.shape
    if layout == "vector":
        return Layer(name, item.kind, layout, channels=shape[1], number=number)
    tokens = reading.of(shape, (item.module, item.call))
    if layout == "other" and tokens is None:
        return Layer(name, item.kind, layout, number=number)
    layout = "tokens" if tokens else layout
    tokens = tokens or Tokens(*map_size(shape, layout))
    channels = shape[1] if layout == "nchw" else shape[-1]
    plain = not any(word in kind for word in NOT_FOR_GRAD_CAM for kind in (item.kind, item.origin))
    # A Linear over tokens makes queries, keys or values of attention.
    plain &= not (layout == "tokens" and item.kind == "Linear")
    useful = plain and tokens.height * tokens.width > 1 and channels != outputs
    return Layer(
        name, item.kind, layout, channels, tokens.height, tokens.width, useful, tokens.leading, tokens.trailing, number
    )
