"""Files of weights: what they hold, and how their names are brought to those of a network. Never runs pickled code."""

import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickletools import genops
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# The keys under which training scripts keep a state dict, the weights as trained before their running averages.
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
MAX_NESTING = 3  # wrappers within wrappers
MAX_NAMES_SHOWN = 6
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
    if not path.is_file():
        raise CheckpointError(f"{path} is a folder, not a file" if path.is_dir() else f"no such file: {path}")
    content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise CheckpointError(f"{path} holds a {kind}, not a state dict; {SAVE_WEIGHTS}")
    checkpoints = list(_state_dicts(content, ()))
    if not checkpoints:
        there = shown([str(key) for key in content]) or "nothing"
        where = f"looked for at its top level and under {', '.join(WRAPPERS)}"
        raise CheckpointError(f"{path} holds no state dict ({where}); its top level has: {there}; {SAVE_WEIGHTS}")
    return checkpoints


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
    return max(candidates, key=lambda each: len(wanted.keys() & each.tensors.keys()))  # the first of equals


def _without_prefixes(checkpoint: Checkpoint) -> list[Checkpoint]:
    """The checkpoint without each prefix that all its names have, from no prefix to the longest."""
    first = next(iter(checkpoint.tensors)).split(".")[:-1]
    prefixes = [".".join(first[:length]) + "." for length in range(1, len(first) + 1)]
    common = [p for p in prefixes if all(name.startswith(p) for name in checkpoint.tensors)]
    return [checkpoint, *(_without_prefix(checkpoint, prefix) for prefix in common)]


def _without_prefix(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    tensors = {name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items()}
    metadata = checkpoint.metadata
    if metadata is not None:  # its names are those of modules, without the dot at the end
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
    """What load_state_dict takes.

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
        raise CheckpointError(f"{path} is not a whole .safetensors file{_lfs(path)}: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(_why_not_read(path, str(error))) from error


def _why_not_read(path: Path, text: str) -> str:
    """What a file is that torch does not read, what to do, and torch's own reason."""
    if "TorchScript" in text:
        return f"{path} is a TorchScript archive, not a state dict; of the module that it was made from {SAVE_WEIGHTS}"
    said = re.sub(r"\x1b\[\d*m", "", text).strip()
    said = next((line.strip() for line in said.splitlines() if "WeightsUnpickler error" in line), said)
    said = f"torch says: {said.split('. Please use')[0][:300]}" if said else "it ends too early"
    kinds = re.findall(r"GLOBAL ([\w.]+)", text)
    if not kinds:
        what = "is neither a .safetensors file nor a state dict saved by torch, or is damaged"
        return f"{path} {what}{_lfs(path)}; {said}"
    if (whole := _pickled_kind(path)) in kinds:
        what = f"is a whole pickled {whole}, not a state dict"
        load = f'net = torch.load("{path.name}", weights_only=False); torch.save(net.state_dict(), "weights.pth")'
    else:
        what = f"holds {kinds[0]} beside its tensors"
        load = f'c = torch.load("{path.name}", weights_only=False); torch.save(c["state_dict"], "weights.pth")'
    why = "it is not unpickled, since that runs code of the file"
    return f"{path} {what}; {why}. Save the weights alone; if you trust the file: {load}. {said}"


def _pickled_kind(path: Path) -> str:
    """The class of the object that torch.save was given, or nothing where it is a plain dict; reads without running."""
    try:
        with zipfile.ZipFile(path) as file:
            pickle = next(name for name in file.namelist() if name.endswith("data.pkl"))
            operations = genops(file.read(pickle))
            next(operations)  # the protocol
            operation, argument, _ = next(operations)
    except (zipfile.BadZipFile, StopIteration, ValueError):
        return ""
    return str(argument).replace(" ", ".") if operation.name == "GLOBAL" else ""


def _lfs(path: Path) -> str:
    """What to say of a file that only stands for one in Git LFS."""
    with path.open("rb") as file:
        pointer = file.read(30).startswith(b"version https://git-lfs")
    return " (it is a pointer of Git LFS; fetch the file itself with: git lfs pull)" if pointer else ""
