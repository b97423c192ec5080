"""Taking what a layer gave out of a forward pass, and stopping the pass when nothing more is needed."""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .card import Layout

Side = Literal["output", "input"]


class Place(NamedTuple):
    """A place in the network: the output or input of a module's k-th call."""

    module: str
    side: Side = "output"
    call: int = 0


class Stopped(Exception):
    """The deepest wanted place was reached; a fresh instance each time, or its traceback keeps every activation."""


def first_tensor(value: Any) -> Tensor | None:
    """The tensor in what a module takes or gives: itself, or the first of a tuple (attention modules)."""
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


class Taps:
    """The tensors at the wanted places, as they were at that moment, after a pass inside `listening`."""

    def __init__(self, places: Collection[Place], *, leaf: bool = False, stop_after: Place | None = None) -> None:
        """`leaf`: nothing upstream of the first place needs a gradient, so let the graph begin there."""
        self.kept: dict[Place, Tensor] = {}
        self._places = frozenset(places)
        self._leaf = leaf
        self._stop_after = stop_after
        self._calls: Counter[str] = Counter()

    @contextmanager
    def listening(self, network: nn.Module) -> Iterator[None]:
        """Hooks the places for one pass, which ends at `stop_after`."""
        handles = []
        for name in sorted({place.module for place in self._places}):
            module = network.get_submodule(name)
            handles.append(module.register_forward_pre_hook(self._on_input(name)))
            handles.append(module.register_forward_hook(self._on_output(name)))
        try:
            yield
        except Stopped:
            pass
        finally:
            for handle in handles:
                handle.remove()

    def _on_input(self, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> Any:
            new = self._take(Place(name, "input", self._calls[name]), first_tensor(args), shared=True)
            return None if new is None else (new, *args[1:])

        return hook

    def _on_output(self, name: str) -> Any:
        def hook(_: nn.Module, args: Any, out: Any) -> Any:
            tensor = first_tensor(out)
            shared = any(tensor is arg for arg in args)  # an identity gives what others may hold too
            new = self._take(Place(name, "output", self._calls[name]), tensor, shared)
            self._calls[name] += 1
            if new is None:
                return None
            return new if isinstance(out, Tensor) else type(out)((new, *out[1:]))

        return hook

    def _take(self, place: Place, x: Tensor | None, shared: bool) -> Tensor | None:
        """Keeps x and hands on a clone, since a later operation may write over it.

        Of a tensor that is used elsewhere too, a copy is kept: its gradient is that of the way through this place.
        """
        if x is None or place not in self._places:
            return None
        if shared:
            x = x.clone()
        if self._leaf and not x.requires_grad and torch.is_grad_enabled():
            x = x.detach().requires_grad_()
        self.kept[place] = x
        if place == self._stop_after:
            raise Stopped
        return x.clone()


def as_map(x: Tensor, layout: Layout, size: tuple[int, int]) -> Tensor:
    """A layer's tensor as [N, C, h, w], or [N, C] for a vector; tokens take the aspect of the image's `size`.

    A class token is left out.
    """
    if layout == "nhwc":
        return x.permute(0, 3, 1, 2)
    if layout in ("tokens", "tokens+class"):
        x = x[:, 1:] if layout == "tokens+class" else x
        height = round((x.shape[1] * size[0] / size[1]) ** 0.5)
        return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], height, -1)
    return x
