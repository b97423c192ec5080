"""What torch.save wrote beside weights, seen without running any of its code, and what to say of it."""

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import Tensor

TENSOR_MODULES = (  # Modules of the functions that make tensors.
    "torch._utils.",
    "torch._tensor.",
    "torch.storage.",
    "torch.nn.parameter.",
)
LEGACY_HEADER_PICKLES = 3  # Pickles before the object's own, in files of torch before 1.6.
MAX_NESTING = 3  # Most dicts within each other.
NOT_LOADED = "Such objects are not loaded, since that would run code from the file"

# What numbers like np.float64(0.9) are made of: harmless, and common beside weights.
NUMBER_TYPES: list[Any] = [
    np.dtype,
    *dict.fromkeys(type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


class Standin:
    """Stands for an object of a file and does nothing; `what` is the class or function that would have made it."""

    what = ""

    def __new__(cls, *_: object, **__: object) -> "Standin":
        """Makes one from any arguments."""
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> "Standin":
        """Returns itself, as the result of a function that a function returned."""
        return self

    def append(self, _: object) -> None:
        """Does nothing, where a list would grow."""

    def extend(self, _: object) -> None:
        """Does nothing, where a list would grow."""


class _Reader(pickle.Unpickler):
    """Makes nothing but numbers, text, lists, dicts and stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return type(name, (Standin,), {"what": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        """Storages; in old files also the classes of modules, with their source code."""
        return pid[1] if isinstance(pid, tuple) and pid[0] == "module" else Standin()


def outline(path: Path) -> Any:
    """The object in the file with stand-ins for all that is no plain data; None where it cannot be read."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return _legacy(file)
        with zipfile.ZipFile(path) as archive, archive.open(_member(archive)) as member:
            return _Reader(member).load()
    except Exception:  # A damaged file may raise anything.
        return None


def _legacy(file: IO[bytes]) -> Any:
    for _ in range(LEGACY_HEADER_PICKLES):
        _Reader(file).load()
    return _Reader(file).load()


def _member(archive: zipfile.ZipFile) -> str:
    return next(name for name in archive.namelist() if name.endswith("data.pkl"))


def is_intact(path: Path) -> bool:
    """Whether it is a zip file as torch.save writes them, complete."""
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(_member(archive))
    except (zipfile.BadZipFile, StopIteration, OSError):
        return False


def why_objects(path: Path, refused: str) -> str:
    """What to say of a file with objects, of which torch refused one of that class."""
    content = outline(path)
    load = f"torch.load({quoted(path.name)}, weights_only=False)"
    if isinstance(content, Standin) and not _is_tensor(content):
        how = f'save its state_dict(): net = {load}; torch.save(net.state_dict(), "weights.pth")'
        return f"{path} is a whole pickled {content.what}, not its weights. {NOT_LOADED}. If you trust it, {how}"
    content = content if isinstance(content, Mapping) else {}
    also = f"also holds {_a(_refused_of(content, refused))}"
    if weights := next(dicts_of_tensors(content), ()):
        return _saving(path, also, load, f"c{subscript(weights)}")
    if network := _network(content):
        whole = f"holds a whole {content[network].what} under {quoted(network)}"
        return _saving(path, whole, load, f"c{subscript((network,))}.state_dict()")
    how = 'its dict of tensors (look at c.keys(); often c["state_dict"] or c["model"])'
    return f"{path} {also}. {NOT_LOADED}. If you trust it, load it with c = {load} and save only {how}"


def _saving(path: Path, what: str, load: str, weights: str) -> str:
    how = f'c = {load}; torch.save({weights}, "weights.pth")'
    return f"{path} {what}. {NOT_LOADED}. If you trust it, save only its weights: {how}"


def _network(content: Mapping[Any, Any]) -> str:
    """The first key whose value may be a whole network: an object under a usual name."""
    usual = ("model", "net", "network", "module", "ema", "model_ema")
    return next((key for key in usual if isinstance(content.get(key), Standin) and not _is_tensor(content[key])), "")


def _refused_of(content: Mapping[Any, Any], refused: str) -> str:
    """The class of the first object on top, or what torch named, which may be deep inside of one."""
    objects = [
        value for value in content.values() if isinstance(value, Standin) and value.what and not _is_tensor(value)
    ]
    return str(objects[0].what) if objects and refused not in {each.what for each in objects} else refused


def _a(name: str) -> str:
    """The name of a class with its article."""
    name = "numpy.ndarray" if name.endswith("multiarray._reconstruct") else name
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def dicts_of_tensors(content: Mapping[Any, Any], keys: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys that lead to dicts of tensors within a dict, those of optimizers left out."""
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Mapping) or "optim" in key.lower():
            continue
        if any(_is_tensor(tensor) for tensor in value.values()):
            yield (*keys, key)
        elif len(keys) < MAX_NESTING:
            yield from dicts_of_tensors(value, (*keys, key))


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, Standin) and value.what.startswith(TENSOR_MODULES))


def subscript(keys: tuple[str, ...]) -> str:
    """As in code: ["a"]["b"]."""
    return "".join(f"[{quoted(key)}]" for key in keys)


def quoted(text: str) -> str:
    """As in code, whatever a file has as its keys."""
    return json.dumps(text)
