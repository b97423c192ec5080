"""Imports without torch, for the front-end, which computes nothing: torch would take 300 MiB of its memory.

The front-end reads the methods' signatures, costs and arguments, so it imports their modules, and those import torch.
In `without_torch()` they get stand-ins, which can be named in annotations and inherited from; calling one raises. So
methods import torch as any module does. Sphinx's `autodoc_mock_imports` reads docstrings in the same way.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGES = ("torch", "torchvision", "safetensors.torch")


@contextmanager
def without_torch() -> Iterator[None]:
    """Modules that are imported inside get stand-ins for torch, for good; imports outside get torch itself.

    Does nothing in a process that has torch already.
    """
    if "torch" in sys.modules:
        yield
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _StandInModule):
                del sys.modules[name]


class _StandIn(type):
    """The class of what stands for a class, function or constant of torch: each is a class without instances."""

    def __getattr__(cls, name: str) -> Any:
        return _attribute(cls, cls.__qualname__, name)

    def __call__(cls, *args: object, **kwargs: object) -> Any:
        name = f"{cls.__module__}.{cls.__qualname__}"
        raise RuntimeError(f"{name} is called in the front-end, which has no torch; call it in a function of a worker")


class _StandInModule(ModuleType):
    """What stands for a module of torch. It has every attribute."""

    def __getattr__(self, name: str) -> Any:
        return _attribute(self, "", name)


def _attribute(owner: Any, prefix: str, name: str) -> _StandIn:
    """A new stand-in, which its owner keeps; but no special attributes, whose absence means something."""
    if name.startswith("__"):
        raise AttributeError(name)
    module = owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
    path = f"{prefix}.{name}" if prefix else name
    value = _StandIn(name, (), {"__module__": module, "__qualname__": path})
    setattr(owner, name, value)
    return value


class _Finder(MetaPathFinder, Loader):
    """Finds a stand-in for each of PACKAGES and every module in them."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        known = any(f"{name}.".startswith(f"{package}.") for package in PACKAGES)
        return ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run."""
