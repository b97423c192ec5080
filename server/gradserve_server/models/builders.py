"""Builders of one's own, package.module:function: called, and what to say where one does not give a network."""

import inspect
import random
import traceback
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from .catalogue import ModelSpec
from .checkpoints import CheckpointError
from .tables import nearest

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
FOREIGN_FOLDERS = (
    str(PACKAGE_FOLDER),
    "<frozen",
    *(str(Path(spec.origin).parent) for spec in map(find_spec, ("torch", "torchvision")) if spec and spec.origin),
)
EXPORTED = ("torch.export.exported_program", "ExportedProgram")  # Module and name of a class that is slow to import.
MAX_TEXT_CHARACTERS = 400  # Most characters of an exception's text.


class BuilderFault(ValueError):
    """A builder that gives no network; the text says what is wrong with it."""


def build(spec: ModelSpec) -> nn.Module:
    """What the builder of an entry returns, which is a network. Raises BuilderFault, CheckpointError."""
    name, _, function = spec.source.partition(":")
    builder = _function(_imported(name), name, function)
    _check_arguments(builder, spec)
    seed_all(spec.seed)  # This comes after the import, which may draw random numbers in its first run.
    try:
        network = builder(**spec.arguments)
    except CheckpointError:
        raise  # Its text says what is wrong with the file of weights, and what to do.
    except (Exception, SystemExit) as error:
        raise BuilderFault(f"its builder {spec.source} failed{where(error)}: {text_of(error)}") from error
    if not isinstance(network, nn.Module):
        raise BuilderFault(f"its builder {spec.source} returned {_describe_wrong_result(network)}")
    return network


def check_sizes(network: nn.Module) -> None:
    """Raises BuilderFault where layers do not know their sizes yet."""
    tensors = (*network.parameters(), *network.buffers())
    if any(isinstance(tensor, UninitializedParameter | UninitializedBuffer) for tensor in tensors):
        raise BuilderFault(
            "it has Lazy layers without a size; let the builder run it once on zeros before returning it"
        )


def seed_all(seed: int) -> None:
    """Seeds all generators that a builder may draw from, since all workers must build the same network."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise BuilderFault(f"there is no module {name}: {error}; correct builder, or install it") from error
        raise BuilderFault(f"importing {name} failed{where(error)}: {text_of(error)}") from error
    except (Exception, SystemExit) as error:
        raise BuilderFault(f"importing {name} failed{where(error)}: {text_of(error)}") from error


def _function(module: ModuleType, name: str, function: str) -> Any:
    builder: Any = module
    for part in function.split("."):  # A class and its method, such as Net.from_pretrained.
        if not hasattr(builder, part):
            functions = [key for key in dir(builder) if callable(getattr(builder, key, None)) and key[0] != "_"]
            where_to = name if builder is module else f"{name}:{function.rpartition(f'.{part}')[0]}"
            raise BuilderFault(f"{where_to} has no function {part}{nearest(part, functions)}; correct builder")
        builder = getattr(builder, part)
    if isinstance(builder, nn.Module):
        raise BuilderFault(
            f"{name}:{function} is a network, not a function that returns one; name a function, or write one"
        )
    if not callable(builder):
        raise BuilderFault(
            f"{name}:{function} is of type {type(builder).__name__}, not a function that returns a network; "
            "correct builder"
        )
    return builder


def _check_arguments(builder: Any, spec: ModelSpec) -> None:
    """Whether the function can be called with them; one that does not tell what it takes is called all the same."""
    try:
        signature = inspect.signature(builder)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**spec.arguments)
    except TypeError as error:
        given = ", ".join(f"{key} = {value!r}" for key, value in spec.arguments.items()) or "..."
        takes = ", ".join(map(str, signature.parameters.values()))
        text = f"its builder {spec.source} takes ({takes}): {error}; correct arguments = {{ {given} }}"
        raise BuilderFault(text) from error


def _describe_wrong_result(given: object) -> str:
    """What a builder returned instead of a network, and what it must return."""
    if isinstance(given, type) and issubclass(given, nn.Module):
        return f"the class {given.__name__}; it must return a network that is made of it"
    if (type(given).__module__, type(given).__name__) == EXPORTED:
        return "a program of torch.export; it must return the torch.nn.Module that it was made from"
    if isinstance(given, tuple | list | dict):
        return f"a {type(given).__name__}; it must return the network alone"
    kind = "None" if given is None else f"a {type(given).__name__}"
    return f"{kind}; it must return a torch.nn.Module"


def where(error: BaseException) -> str:
    """File and line of the last frame that is neither ours nor torch's, or nothing."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {Path(error.filename).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(FOREIGN_FOLDERS)]
    return f" at {Path(theirs[-1].filename).name}:{theirs[-1].lineno}" if theirs else ""


def text_of(error: BaseException) -> str:
    """An exception in words, of which some have no text of their own."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text[:MAX_TEXT_CHARACTERS]}" if text else type(error).__name__
