"""Directions in files: .npy, .npz as `ConceptDirection.save` writes it, or .safetensors; nothing in them is run."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

ENDINGS = (".npy", ".npz", ".safetensors")
MAX_BYTES = 1 << 20  # The largest file that is read.
MAX_HEADER_BYTES = 1 << 16
NAME = "direction"  # The array that is read from a file which has several.
KINDS: dict[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}  # Number formats of safetensors.

Array = np.ndarray[Any, Any]


def read(path: str | os.PathLike[str]) -> Array:
    """The direction in a file, [C] of float32. Raises ValueError, also for what is pickled, and OSError."""
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path} has {size} bytes, and a direction at most {MAX_BYTES}")
    try:
        array = _safetensors(path) if path.suffix.lower() == ".safetensors" else _numpy(path)
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{path} has no direction: {error}") from None
    return checked(array, str(path))


def checked(vector: Any, origin: str) -> Array:
    """Numbers as a direction, [C] of float32. Raises ValueError where they are none."""
    try:
        given = np.asarray(vector)
        with np.errstate(over="ignore"):  # Then they are not finite.
            array = given.astype(np.float32) if given.dtype.kind in "fiu" else None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{origin}: {error}") from None
    if array is None:
        raise ValueError(f"{origin} has values of the type {given.dtype}, which are no real numbers")
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{origin} has the shape {list(array.shape)}; a direction has one number for each channel")
    if not np.isfinite(array).all() or not array.any():
        raise ValueError(f"{origin} must have finite numbers, not all of them 0")
    return array


def _numpy(path: Path) -> Array:
    with path.open("rb") as file:
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        return np.asarray(found[NAME])


def _safetensors(path: Path) -> Array:
    """The array of the name "direction", or the only one."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 0 < length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError("the header of the safetensors file is damaged")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("the header of the safetensors file is damaged")
    tensors = {name: facts for name, facts in header.items() if name != "__metadata__"}
    if NAME not in tensors and len(tensors) != 1:
        raise ValueError(f"it has {len(tensors)} arrays; name one of them {NAME}")
    facts = tensors.get(NAME) or next(iter(tensors.values()))
    if facts["dtype"] not in KINDS:
        raise ValueError(f"its numbers are {facts['dtype']}; {', '.join(KINDS)} can be read")
    begin, end = facts["data_offsets"]
    body = data[8 + length :]
    if not 0 <= begin <= end <= len(body):
        raise ValueError("the numbers lie outside of the file")
    return np.frombuffer(body[begin:end], KINDS[facts["dtype"]]).reshape(facts["shape"])
