"""Computes maps again from what their file says of them, and compares."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format

from gradserve.client import Client
from gradserve.folders.files import is_partial, read
from gradserve.images import Array
from gradserve.messages import inputs
from gradserve.messages.common import PRECISION, choice
from gradserve.results.common import Result
from gradserve.results.explain import Explanation, picture_sha256
from gradserve.v1 import common_pb2, explain_pb2

_NO_MAPS = "{} is no .npz file of maps that this client or `gradserve explain` saved"
COMPARED = (
    "model",
    "weights_digest",
    "precision",
    "server_version",
)  # The entries of the provenance that are compared.


@dataclass(frozen=True)
class Replayed(Result):
    """A map that was computed again, beside the one in the file.

    difference: the largest of a pixel, as a share of the file's largest absolute value. correlation: of the two maps,
    None where one of them is the same everywhere. changed: entries of the provenance that differ, (name, then, now).
    """

    method: str
    target_name: str
    target_value: float
    target_value_then: float
    difference: float
    correlation: float | None
    changed: tuple[tuple[str, str, str], ...]


def replay(client: Client, path: Path, photo: Path | None = None) -> list[Replayed]:
    """Computes every map of the file again, on the photo that the file names, or on `photo`.

    Raises ValueError where the file lacks what that takes, where a map is partial, where the photo is missing or has
    other bytes, and where the new map has another size.
    """
    metadata, maps = read(path), _maps(path)
    if not metadata or len(metadata) != len(maps) or not all(map(_is_known, metadata)):
        raise ValueError(_NO_MAPS.format(path))
    found = []
    for each, before in zip(metadata, maps, strict=True):
        request = _request(path, each)
        request.image.CopyFrom(_picture(path, each["picture"], photo))
        found.append(_compared(each, before, client.explain_message(request)[0]))
    return found


def _is_known(metadata: dict[str, Any]) -> bool:
    """Whether the metadata of a map has all that it takes to compute the map again and to compare it."""
    origin = metadata.get("provenance")
    known = isinstance(origin, dict) and {*COMPARED, "seed"} <= origin.keys() and "sha256" in metadata["picture"]
    return known and isinstance(metadata.get("target_value"), (int, float))


def _maps(path: Path) -> Sequence[Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file["map"]] if "map" in file.files else list(file["maps"])
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return []


def _request(path: Path, metadata: dict[str, Any]) -> explain_pb2.ExplainRequest:
    """The request of one map, on the model and with the precision and the seed that it was made with."""
    if "request" not in metadata:
        raise ValueError(f"{path} does not say what was asked; an older client saved it, or it is an attack's map")
    if is_partial(metadata):
        samples = f"{metadata.get('done')} of {metadata.get('asked')} samples"
        raise ValueError(f"{path} has a map of {samples}, since time ran out; such a map cannot be computed again")
    try:
        request = json_format.ParseDict(metadata["request"], explain_pb2.ExplainRequest(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise ValueError(f"{_NO_MAPS.format(path)}: {error}") from None
    origin = metadata["provenance"]
    request.model = origin["model"]
    request.options.precision = choice("precision", PRECISION, origin["precision"])
    request.options.seed = origin["seed"]
    request.options.ClearField("time_budget")
    return request


def _picture(path: Path, origin: dict[str, Any], photo: Path | None) -> common_pb2.Image:
    if photo is None and "file" not in origin:
        raise ValueError(f"{path} does not say where its photo lies; name it with --photo")
    file = photo or path.parent / origin["file"]
    try:
        image = inputs.message(file)
    except FileNotFoundError:
        raise ValueError(f"photo {file} is not there; name it with --photo") from None
    if picture_sha256(image) != origin["sha256"]:
        raise ValueError(f"{file} is not the photo that {path} is about: its SHA-256 is another")
    return image


def _compared(metadata: dict[str, Any], before: Array, now: Explanation) -> Replayed:
    if now.map.shape != before.shape:
        sizes = f"{before.shape[1]}x{before.shape[0]} then and {now.map.shape[1]}x{now.map.shape[0]} now"
        raise ValueError(f"the map of {now.method} is of another size: {sizes}")
    largest = float(np.abs(before).max())
    difference = float(np.abs(now.map - before).max())
    origin = metadata["provenance"]
    return Replayed(
        method=now.method,
        target_name=now.target_name,
        target_value=now.target_value,
        target_value_then=metadata["target_value"],
        difference=difference / largest if largest else difference,
        correlation=_correlation(before, now.map),
        changed=tuple(
            (name, str(origin[name]), str(getattr(now.provenance, name)))
            for name in COMPARED
            if origin[name] != getattr(now.provenance, name)
        ),
    )


def _correlation(before: Array, now: Array) -> float | None:
    if not before.std() or not now.std():
        return None
    return float(np.corrcoef(before.ravel(), now.ravel())[0, 1])
