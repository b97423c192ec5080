"""What one look at a network tells: which layers fire, in which order and shape, and what applies to it."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from .card import Layer, Layout
from .relu import ReLURules
from .taps import Place, Taps, as_map, first_tensor

ROWS = 2  # a batch of two tells the batch dimension from the others
NOT_FOR_GRAD_CAM = ("Pool", "Dropout", "Identity", "Flatten", "Permute")
OTHER_ACTIVATIONS = (
    "SiLU",
    "GELU",
    "Hardswish",
    "ELU",
    "SELU",
    "CELU",
    "LeakyReLU",
    "PReLU",
    "Mish",
    "Tanh",
    "Softplus",
)


@dataclass(frozen=True)
class Probe:
    """What was seen: layers in execution order with the place of each, and facts for the model's card."""

    layers: tuple[Layer, ...]
    places: dict[str, Place]
    classes: int
    softmax: bool
    grad_cam_layer: str
    relus: int
    other_activations: tuple[str, ...]
    rules_refused: str
    gflop: float


@dataclass(frozen=True)
class _Seen:
    module: str
    call: int
    kind: str
    origin: str  # kind of the innermost module that made this very tensor: a container hands its last child's on
    shape: tuple[int, ...]


def layout_of(shape: tuple[int, ...], size: tuple[int, int]) -> Layout:
    """How a layer's output of that shape, for ROWS images of that size, is to be read."""
    if shape[0] != ROWS:
        return "other"
    if len(shape) == 2:
        return "vector"
    if len(shape) == 4:
        if _aspect(shape[2], shape[3], size):
            return "nchw"
        if _aspect(shape[1], shape[2], size):
            return "nhwc"
    if len(shape) == 3:
        for classes, layout in ((0, "tokens"), (1, "tokens+class")):
            height = round(max(shape[1] - classes, 0) ** 0.5 * (size[0] / size[1]) ** 0.5)
            if height > 1 and (shape[1] - classes) % height == 0:
                width = (shape[1] - classes) // height
                if _aspect(height, width, size):
                    return layout  # type: ignore[return-value]
    return "other"


def _aspect(height: int, width: int, size: tuple[int, int]) -> bool:
    return abs(height * size[1] - width * size[0]) < max(size)


def probe(network: nn.Module, example: Tensor) -> Probe:
    """Runs a prepared network a few times on `example` [2, 3, H, W], normalised."""
    size = (example.shape[2], example.shape[3])
    seen, logits, gflop = _watch(network, example)
    if logits.dim() != 2 or logits.shape[0] != ROWS:
        raise ValueError(f"the model gives {tuple(logits.shape)} for 2 images; it must give [2, classes]")
    with torch.no_grad():
        alone = network(example[:1])
    if not torch.allclose(alone, logits[:1], rtol=1e-2, atol=1e-2 * float(logits.abs().max())):
        raise ValueError("an image's logits depend on the other images of its batch, even in eval mode")
    refused, relus = _try_rules(network, example, logits)
    calls = Counter(item.module for item in seen)
    named = [(name, item) for item in seen for name in _names(item, calls)]
    layers = [_layer(name, item, size, logits.shape[1]) for name, item in named]
    places = {name: Place(item.module, "output", item.call) for name, item in named}
    useful = _useful_maps(network, example, [layer for layer in layers if layer.grad_cam], places)
    kinds = {item.kind for item in seen}
    softmax = bool((logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-4))
    return Probe(
        layers=tuple(layers),
        places=places,
        classes=logits.shape[1],
        softmax=softmax,
        grad_cam_layer=useful[-1] if useful else "",
        relus=relus,
        other_activations=tuple(sorted(kinds & set(OTHER_ACTIVATIONS))),
        rules_refused=refused,
        gflop=gflop,
    )


def _watch(network: nn.Module, example: Tensor) -> tuple[list[_Seen], Tensor, float]:
    """The modules that fire with a tensor output, in order; the logits; the forward's cost of one image in GFLOP."""
    seen: list[_Seen] = []
    calls: Counter[str] = Counter()
    origins: list[Any] = []  # the last output and the kind of what made it

    def hook(name: str) -> Any:
        def on_output(module: nn.Module, _: Any, out: Any) -> None:
            tensor = first_tensor(out)
            if tensor is not None and name:
                kind = type(module).__name__
                origins[:] = [tensor, origins[1] if origins and origins[0] is tensor else kind]
                seen.append(_Seen(name, calls[name], kind, origins[1], tuple(tensor.shape)))
                calls[name] += 1

        return on_output

    handles = [module.register_forward_hook(hook(name)) for name, module in network.named_modules()]
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            logits = network(example)
    finally:
        for handle in handles:
            handle.remove()
    return seen, logits, counter.get_total_flops() / len(example) / 1e9


def _names(item: _Seen, calls: Counter[str]) -> list[str]:
    """A module called more than once has every call by index; its plain name means the last one."""
    if calls[item.module] == 1:
        return [item.module]
    indexed = f"{item.module}:{item.call}"
    return [indexed, item.module] if item.call == calls[item.module] - 1 else [indexed]


def _layer(name: str, item: _Seen, size: tuple[int, int], classes: int) -> Layer:
    layout = layout_of(item.shape, size)
    if layout == "other":
        return Layer(name, item.kind, layout)
    if layout == "vector":
        return Layer(name, item.kind, layout, channels=item.shape[1])
    _, channels, height, width = as_map(torch.empty(item.shape, device="meta"), layout, size).shape
    plain = not any(word in kind for word in NOT_FOR_GRAD_CAM for kind in (item.kind, item.origin))
    return Layer(name, item.kind, layout, channels, height, width, plain and height * width > 1 and channels != classes)


class _CountReLUs(TorchDispatchMode):
    """Counts the ReLU operations that really run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts and calls."""
        aten = torch.ops.aten
        packet = func.overloadpacket
        if packet in (aten.relu, aten.relu_) or (packet in (aten.hardtanh, aten.hardtanh_) and args[1:2] == (0.0,)):
            self.count += 1
        return func(*args, **(kwargs or {}))


def _try_rules(network: nn.Module, example: Tensor, logits: Tensor) -> tuple[str, int]:
    """Why the backward rules of ReLU do not apply (or empty), and the number of ReLUs."""
    counter, rules = _CountReLUs(), ReLURules(["plain", "guided"])
    with torch.no_grad(), counter:
        network(example)
    try:
        with rules:
            ruled = network(example.detach().requires_grad_())
    except Exception as error:
        return f"its ReLUs cannot be ruled row by row: {error}", counter.count
    if rules.caught == 0:
        return "it has no ReLU", 0
    if rules.caught < counter.count:
        return f"only {rules.caught} of its {counter.count} ReLUs can be reached", counter.count
    if not torch.allclose(ruled, logits, rtol=1e-4, atol=1e-5):
        return "its output changes when its ReLUs are intercepted", counter.count
    return "", rules.caught


def _useful_maps(network: nn.Module, example: Tensor, layers: list[Layer], places: dict[str, Place]) -> list[str]:
    """Those layers at which the top logits have a gradient on more than half of the positions."""
    if not layers:
        return []
    taps = Taps([places[layer.name] for layer in layers])
    with taps.listening(network):
        logits = network(example.detach().requires_grad_())
    kept = [taps.kept[places[layer.name]] for layer in layers]
    differentiable = [x for x in kept if x.requires_grad]
    grads = iter(torch.autograd.grad(logits.amax(1).sum(), differentiable, allow_unused=True))
    useful = []
    for layer, x in zip(layers, kept, strict=True):
        grad = next(grads) if x.requires_grad else None
        if grad is None:
            continue
        size = (example.shape[2], example.shape[3])
        nonzero = as_map(grad, layer.layout, size).abs().sum(1) > 0
        if nonzero.float().mean() > 0.5:
            useful.append(layer.name)
    return useful or [layer.name for layer in layers[-1:]]
