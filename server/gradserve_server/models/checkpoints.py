"""Files of weights: what they hold, and how their names are brought to those of a network. Never runs pickled code."""

import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from .pickled import NUMBER_TYPES, dicts_of_tensors, is_intact, quoted, subscript, why_objects

# The keys under which training scripts keep a state dict. Those of trained weights come before running averages.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema",
    "ema_state_dict",
    "params_ema",
)
MAX_NESTING = 3  # Most wrappers within each other.
MAX_NAMES_SHOWN = 3  # Most names in an error text.
SAVE_WEIGHTS = 'save the weights alone: torch.save(net.state_dict(), "weights.pth")'


class CheckpointError(ValueError):
    """A file of weights that cannot be used; the text says what it is and what to do."""


class Checkpoint(NamedTuple):
    """A state dict of a file, the keys that lead to it, and the versions of its modules where the file has them."""

    tensors: dict[str, Any]
    keys: tuple[str, ...] = ()
    metadata: Mapping[str, Any] | None = None


def read_checkpoints(path: Path) -> list[Checkpoint]:
    """The state dicts of a file, those to be preferred first. Raises CheckpointError."""
    try:
        _check_is_file(path)
        content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {_kind(content)}, not a dict of tensors by name; {SAVE_WEIGHTS}")
    checkpoints = list(_state_dicts(content, ()))
    if not checkpoints:
        raise CheckpointError(_without_weights(path, content))
    return checkpoints


def _kind(content: object) -> str:
    return "tensor" if isinstance(content, Tensor) else type(content).__name__


def _without_weights(path: Path, content: Mapping[Any, Any]) -> str:
    """What to say of a file whose dict has no state dict at the usual places."""
    keys = next(dicts_of_tensors(content), ())
    if not keys:
        return f"{path} has no weights; it holds: {shown([str(key) for key in content]) or 'nothing'}; {SAVE_WEIGHTS}"
    alone = f'torch.save(torch.load({quoted(path.name)}){subscript(keys)}, "weights.pth")'
    where = f"under {', '.join(map(quoted, keys))}, which is not looked for"
    return f"{path}: its weights seem to be {where}; save them alone: {alone}"


def _state_dicts(content: Mapping[Any, Any], keys: tuple[str, ...]) -> Iterator[Checkpoint]:
    """The mapping itself where it has tensors, and those that it keeps under the usual keys."""
    nested = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
    if not nested and any(isinstance(value, Tensor) for value in content.values()):
        state = {str(n): v for n, v in content.items() if isinstance(v, Tensor) or str(n).endswith("_extra_state")}
        yield Checkpoint(state, keys, _metadata(content))
    if len(keys) < MAX_NESTING:
        for key in nested:
            yield from _state_dicts(content[key], (*keys, key))


def _metadata(content: Mapping[Any, Any]) -> Mapping[str, Any] | None:
    """The versions of the modules, which torch keeps as an attribute of the state dict."""
    metadata = getattr(content, "_metadata", None)
    return metadata if isinstance(metadata, Mapping) else None


def fitted(checkpoint: Checkpoint, wanted: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint without a prefix that training tools put before its names, where more names then fit."""
    candidates = [checkpoint, *_without_prefixes(_without_average_count(checkpoint, wanted))]
    if not any("_orig_mod" in name for name in wanted):
        candidates += [_without_compiling(each) for each in candidates]
    return max(candidates, key=lambda each: len(wanted.keys() & each.tensors.keys()))  # Max takes the first of equals.


def _without_prefixes(checkpoint: Checkpoint) -> list[Checkpoint]:
    """The checkpoint without each prefix that all its names have, from no prefix to the longest."""
    first = next(iter(checkpoint.tensors)).split(".")[:-1]
    prefixes = [".".join(first[:length]) + "." for length in range(1, len(first) + 1)]
    common = [p for p in prefixes if all(name.startswith(p) for name in checkpoint.tensors)]
    return [checkpoint, *(_without_prefix(checkpoint, prefix) for prefix in common)]


def _without_prefix(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    tensors = {name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items()}
    metadata = checkpoint.metadata
    if metadata is not None:  # Its names are those of modules, without a dot at the end.
        inside = {f"{name}.": value for name, value in metadata.items()}
        metadata = {n.removeprefix(prefix)[:-1]: value for n, value in inside.items() if n.startswith(prefix)}
    return Checkpoint(tensors, checkpoint.keys, metadata)


def _without_compiling(checkpoint: Checkpoint) -> Checkpoint:
    """The names as they are without torch.compile, which puts `_orig_mod` before those of what it compiles."""

    def plain(name: str) -> str:
        return ".".join(part for part in name.split(".") if part != "_orig_mod")

    metadata = checkpoint.metadata and {plain(name): value for name, value in checkpoint.metadata.items()}
    return Checkpoint({plain(name): t for name, t in checkpoint.tensors.items()}, checkpoint.keys, metadata)


def _without_average_count(checkpoint: Checkpoint, wanted: Mapping[str, Any]) -> Checkpoint:
    """A file of torch's AveragedModel has the averaged network under "module." and how many were averaged."""
    tensors = checkpoint.tensors
    if "n_averaged" in wanted or not all(name == "n_averaged" or name.startswith("module.") for name in tensors):
        return checkpoint
    return checkpoint._replace(tensors={name: t for name, t in tensors.items() if name != "n_averaged"} or tensors)


def as_state_dict(checkpoint: Checkpoint, own: Mapping[str, Any]) -> "OrderedDict[str, Any]":
    """The state dict for load_state_dict.

    A file without versions of modules (safetensors, a plain dict) counts as written by the network as it is now.
    """
    state = OrderedDict(checkpoint.tensors)
    metadata = _metadata(own) if checkpoint.metadata is None else checkpoint.metadata
    if metadata is not None:
        state._metadata = OrderedDict(metadata)  # type: ignore[attr-defined]
    return state


def shown(names: list[str]) -> str:
    """The first of the names, and how many more there are."""
    more = len(names) - MAX_NAMES_SHOWN
    return ", ".join(names[:MAX_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _check_is_file(path: Path) -> None:
    """Raises CheckpointError for a folder, an empty file or a pointer of Git LFS."""
    if not path.is_file():
        raise CheckpointError(f"{path} is a folder, not a file" if path.is_dir() else f"no file of weights {path}")
    with path.open("rb") as file:
        start = file.read(30)
    if not start:
        raise CheckpointError(f"{path} is empty; copy it again")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a pointer of Git LFS, not the file itself; run: git lfs pull")


def _is_safetensors(path: Path) -> bool:
    """Whether a file says so by its ending, or begins as one: the length of a header, then a JSON object."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is cut off or damaged; copy it again") from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), safe_globals(NUMBER_TYPES):
            warnings.simplefilter("ignore")  # These are about TorchScript and odd protocols; the error below says so.
            return torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(_why_not_read(path, str(error))) from error


def _why_not_read(path: Path, text: str) -> str:
    """What a file is that torch does not read, and what to do."""
    if "TorchScript" in text:
        save = 'torch.save(net.state_dict(), "weights.pth")'
        return f"{path} is a TorchScript file, not a file of weights; save those of the module it was made from: {save}"
    if kinds := re.findall(r"GLOBAL ([\w.]+)", text):
        return why_objects(path, kinds[0])
    if is_intact(path) and "WeightsUnpickler error" in text:
        again = f'torch.save(torch.load({quoted(path.name)}, weights_only=False), "weights.pth")'
        return f"{path} cannot be loaded without running code from it; if you trust it, save it again: {again}"
    if is_intact(path):
        return f"{path} cannot be read; torch says: {text.strip().splitlines()[0][:200]}; {SAVE_WEIGHTS}"
    size = path.stat().st_size
    return (
        f"{path} is no file of weights (.safetensors, or of torch.save), or was cut off ({size} bytes); copy it again"
    )
