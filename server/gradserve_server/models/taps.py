"""Taking inputs and outputs of layers out of a forward pass, and stopping the pass when nothing more is needed."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .card import Layout, Tokens
from .relu import read

Side = Literal["output", "input"]


class Place(NamedTuple):
    """A place in the network: the output or input of a module's k-th call.

    With `relu` it is what a ReLU makes of that output, which is called as a function and no module of its own.
    """

    module: str
    side: Side = "output"
    call: int = 0
    relu: bool = False


class Stopped(Exception):
    """The deepest wanted place was reached. A kept instance would hold all activations, so each raise makes one."""


def first_tensor(value: Any) -> Tensor | None:
    """The tensor in what a module takes or gives: itself, or the first of a tuple (attention modules)."""
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The first tensor that a module is called with, arguments with names last."""
    return next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)


def _with_first(value: Any, new: Tensor) -> Any:
    """The same tuple or list with another first item."""
    return value._make((new, *value[1:])) if hasattr(value, "_make") else type(value)((new, *value[1:]))


def version_of(x: Tensor) -> int:
    """How often x was written over; -1 in inference mode, where torch does not count."""
    return -1 if x.is_inference() else x._version


class Taps:
    """The tensors at the wanted places, as they were at that moment, after a pass inside `listening`."""

    def __init__(self, places: Collection[Place], *, leaf: bool = False, stop_after: Place | None = None) -> None:
        """`leaf`: the graph may begin at the first place, since nothing before it needs a gradient."""
        self.kept: dict[Place, Tensor] = {}
        self._versions: dict[Place, int] = {}
        self._places = frozenset(places)
        self._leaf = leaf
        self._stop_after = stop_after
        self._calls: Counter[str] = Counter()
        self._relu_inputs: dict[int, tuple[Place, Tensor, int]] = {}  # By id of a module's output, with its version.

    @contextmanager
    def listening(self, network: nn.Module) -> Iterator[None]:
        """Hooks the places for one pass, which ends at `stop_after`. Rules of ReLUs must be entered before."""
        handles = []
        for name in sorted({place.module for place in self._places}):
            module = network.get_submodule(name)
            handles.append(module.register_forward_pre_hook(self._on_input(name), with_kwargs=True))
            handles.append(module.register_forward_hook(self._on_output(name), with_kwargs=True))
        with_relus = any(place.relu for place in self._places)
        relus: AbstractContextManager[object] = _ReLUs(self) if with_relus else nullcontext()
        try:
            with relus:
                yield
        except Stopped:
            pass
        finally:
            for handle in handles:
                handle.remove()
            self._relu_inputs.clear()

    def overwritten(self) -> set[Place]:
        """The places whose tensor was written over after it was kept: by a ReLU in place whose result nobody took."""
        return {place for place, x in self.kept.items() if version_of(x) != self._versions[place]}

    def wanted_relu(self, x: Tensor) -> Place | None:
        """The wanted place of the ReLU of x, if x is a module's output that was not written over since."""
        place, output, version = self._relu_inputs.pop(id(x), (None, x, 0))
        return place if place is not None and version_of(output) == version else None

    def keep_relu(self, place: Place, out: Tensor) -> Tensor:
        """Keeps the output of a ReLU; returns the tensor that the network goes on with."""
        new = self._take(place, out, shared=False)
        return out if new is None else new

    def _on_input(self, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = first_input(args, kwargs)
            new = self._take(Place(name, "input", self._calls[name]), x, shared=True)
            if new is None:
                return None
            args = tuple(new if value is x else value for value in args)  # In self-attention x stands three times.
            return args, {key: new if value is x else value for key, value in kwargs.items()}

        return hook

    def _on_output(self, name: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> Any:
            tensor = first_tensor(out)
            shared = any(tensor is arg for arg in (*args, *kwargs.values()))  # An identity returns its input itself.
            new = self._take(Place(name, "output", self._calls[name]), tensor, shared)
            relu = Place(name, "output", self._calls[name], relu=True)
            if tensor is not None and relu in self._places:
                handed = tensor if new is None else new
                self._relu_inputs[id(handed)] = (relu, handed, version_of(handed))
            self._calls[name] += 1
            if new is None:
                return None
            return new if isinstance(out, Tensor) else _with_first(out, new)

        return hook

    def _take(self, place: Place, x: Tensor | None, shared: bool) -> Tensor | None:
        """Keeps x and hands on a clone, since a later operation may write over it.

        Of a tensor that is used elsewhere too, a copy is kept, whose gradient counts only what goes through this place.
        """
        if x is None or place not in self._places:
            return None
        if shared:
            x = x.clone()
        if self._leaf and not x.requires_grad and torch.is_grad_enabled():
            x = x.detach().requires_grad_()
        self.kept[place], self._versions[place] = x, version_of(x)
        if place == self._stop_after:
            raise Stopped
        return x.clone()


class _ReLUs(TorchFunctionMode):
    """Tells the taps of every ReLU that is called."""

    def __init__(self, taps: Taps) -> None:
        super().__init__()
        self._taps = taps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function, and returns what the taps return for a ReLU."""
        call = read(func, args, kwargs or {})
        place = None if call is None else self._taps.wanted_relu(call.x)
        out = func(*args, **(kwargs or {}))
        return out if place is None else self._taps.keep_relu(place, out)


def as_map(x: Tensor, layout: Layout, tokens: Tokens | None = None) -> Tensor:
    """A layer's tensor as [N, C, h, w], or [N, C] for a vector; of tokens only the patches."""
    if layout == "nhwc":
        return x.permute(0, 3, 1, 2)
    if layout == "tokens":
        assert tokens is not None, "the layout has a grid"
        patches = x[:, tokens.leading : x.shape[1] - tokens.trailing]
        return patches.transpose(1, 2).reshape(len(x), x.shape[2], tokens.height, tokens.width)
    return x
