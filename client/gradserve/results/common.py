"""What answers of several RPCs have: scores of classes, the part of the picture that was seen, their provenance."""

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from google.protobuf.message import Message
from PIL import Image

from gradserve import images

_PICTURES = (bytes, Image.Image, Message)  # The types of pictures: files, opened ones, and those that were sent.


class Result:
    """What a call gives."""

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON takes it: dictionaries, lists, numbers and texts, without pictures and large arrays."""
        return to_dict(self)


def to_dict(result: Any) -> dict[str, Any]:
    """A dataclass as JSON takes it, without pictures and arrays of more than one axis."""
    fields = {name: (getattr(result, name), types) for name, types in _field_types(result.__class__).items()}
    return {name: _plain(value) for name, (value, types) in fields.items() if not _is_left_out(value, types)}


def save_arrays(path: str | os.PathLike[str], metadata: Mapping[str, Any], **arrays: Any) -> Path:
    """Write a .npz file of the arrays that are not None, and of `metadata`, a text of JSON that says what they are."""
    path = Path(path)
    with path.open("wb") as file:
        there = {name: array for name, array in arrays.items() if array is not None}
        np.savez_compressed(file, metadata=np.array(json.dumps(metadata)), **there)
    return path


def slug(name: str) -> str:
    """A name as a part of a file's name: letters, digits, dots and underscores, at most 60."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_")[:60] or "target"


def npz_path(path: str | os.PathLike[str]) -> Path:
    """The path of a file of arrays. Raises ValueError if it does not end in .npz."""
    if Path(path).suffix.lower() != ".npz":
        raise ValueError(f"{path}: arrays with their provenance are saved as .npz")
    return Path(path)


@cache
def _field_types(kind: Any) -> dict[str, frozenset[type]]:
    """The classes that the types of a dataclass's fields consist of."""
    hints = get_type_hints(kind)
    return {field.name: frozenset(_classes(hints[field.name])) for field in dataclasses.fields(kind)}


def _classes(hint: Any) -> Iterator[type]:
    """The classes in a type: of `tuple[bytes, ...] | None` tuple and bytes are two."""
    found = get_origin(hint) or hint
    if isinstance(found, type):
        yield found
    if found is not np.ndarray:
        for each in get_args(hint):
            yield from _classes(each)


def _is_left_out(value: Any, types: Set[type]) -> bool:
    """Whether a field may have pictures, has an array of several axes, or has no array where it may have one."""
    if any(issubclass(each, _PICTURES) for each in types):
        return True
    return np.ndarray in types if value is None else isinstance(value, np.ndarray) and value.ndim > 1


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


@dataclass(frozen=True)
class Region:
    """The part of the original picture that the model saw, in pixels of the original (upright)."""

    x: float
    y: float
    width: float
    height: float
    image_width: int
    image_height: int

    def box(self, scale: int = 1) -> images.Box:
        """Left, top, right, bottom in whole pixels of the original enlarged by the scale, at least one pixel large."""
        left = min(max(round(self.x * scale), 0), self.image_width * scale - 1)
        top = min(max(round(self.y * scale), 0), self.image_height * scale - 1)
        right = min(round((self.x + self.width) * scale), self.image_width * scale)
        bottom = min(round((self.y + self.height) * scale), self.image_height * scale)
        return left, top, max(right, left + 1), max(bottom, top + 1)


@dataclass(frozen=True)
class Provenance:
    """Where an answer comes from: enough to repeat it.

    weights_digest: SHA-256 of the model's weights and buffers, in hexadecimal. rows: images through the network, each
    counted once for every pass. queue_seconds: the wait before the first pass. compute_seconds: those of the passes,
    each divided by the rows that shared it. request_id: as in the server's log. quick_decode: whether the picture was
    decoded at a fraction of its size. alone: whether every row had a pass of its own.
    """

    model: str
    weights_digest: str
    seed: int
    precision: str
    preprocess: str
    rows: int
    queue_seconds: float
    compute_seconds: float
    server_version: str
    warnings: tuple[str, ...]
    request_id: str
    quick_decode: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Score:
    """A class with its score."""

    class_index: int
    class_name: str
    probability: float
    logit: float
