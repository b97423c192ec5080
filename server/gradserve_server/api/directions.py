"""The directions that callers keep by name: files in the server's folder, which all its front-ends read.

Each token has a folder of its own. Where no tokens are asked for, all callers share one.
"""

import base64
import fcntl
import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from ..config import LimitSettings
from ..models.card import ModelCard
from .errors import RequestError, Violations, near, shown

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
ENDING = ".json"
BYTES_OF_NUMBER = 4


@dataclass(frozen=True, slots=True)
class KeptDirection:
    """A direction [C] in a layer of a model with these weights, until a time in seconds since 1970."""

    name: str
    model: str
    digest: str
    layer: str
    vector: np.ndarray
    expires: float = 0.0


def kept_direction(name: str, card: ModelCard, layer: str, vector: np.ndarray) -> KeptDirection:
    """A direction of a served model, to be kept by that name."""
    return KeptDirection(name, card.name, card.digest, layer, vector.astype("<f4"))


def check_name(name: str, path: str, violations: Violations) -> None:
    """A violation of the field `path` where a direction cannot have that name."""
    if not NAME.fullmatch(name):
        text = f"must be 1 to 64 letters, digits, dots, underscores or hyphens, was {shown(name)}"
        violations.add(path, text, for_every_model=True)


def timestamp(seconds: float) -> Timestamp:
    """A time in seconds since 1970 as a message."""
    message = Timestamp()
    message.FromMilliseconds(round(1000 * seconds))
    return message


class Directions:
    """The directions of one owner, in a folder that is made with the first of them.

    Without a folder the owner can keep none.
    """

    def __init__(self, folder: Path | None, limits: LimitSettings) -> None:
        self._folder, self._limits = folder, limits

    def get(self, name: str) -> KeptDirection:
        """The direction of that name. Raises NOT_FOUND, also for one that has expired or is another owner's."""
        found = self._read(name) if self._folder is not None and NAME.fullmatch(name) else None
        if found is None:
            own = [each.name for each in self.all()]
            hint = near(name, own) if own else "none is kept"
            text = f"there is no direction {shown(name)}; {hint}"
            raise RequestError(grpc.StatusCode.NOT_FOUND, "UNKNOWN_DIRECTION", text)
        return found

    def all(self) -> list[KeptDirection]:
        """Those that have not expired, by name."""
        if self._folder is None:
            return []
        names = sorted(path.name.removesuffix(ENDING) for path in self._folder.glob(f"*{ENDING}"))
        return [found for name in names if (found := self._read(name)) is not None]

    def check_room(self, name: str, channels: int) -> None:
        """Raises FAILED_PRECONDITION where a direction of that name has no room beside the others."""
        if self._folder is None:
            raise _full("this server keeps no directions")
        others = [each for each in self.all() if each.name != name]
        count, size = self._limits.max_directions, self._limits.max_direction_bytes
        if len(others) >= count:
            raise _full(f"{len(others)} directions are kept, and at most {count} may be; delete one, or wait")
        taken = BYTES_OF_NUMBER * sum(len(each.vector) for each in others)
        if taken + BYTES_OF_NUMBER * channels > size:
            new = f"{name} needs {BYTES_OF_NUMBER * channels} bytes"
            raise _full(f"{new} beside {taken} that are kept, and at most {size} may be; delete one, or wait")

    def keep(self, direction: KeptDirection) -> KeptDirection:
        """Keeps a direction in place of one of that name; returns it with its time. Raises FAILED_PRECONDITION."""
        kept = replace(direction, expires=time.time() + self._limits.direction_seconds)
        with self._locked() as folder:
            for path in folder.glob(f"*{ENDING}"):
                if self._read(path.name.removesuffix(ENDING)) is None:
                    path.unlink(missing_ok=True)
            self.check_room(kept.name, len(kept.vector))
            part = folder / "part"  # What a killed front-end left of it is written over.
            part.write_text(json.dumps(_to_json(kept)))
            part.replace(_file(folder, kept.name))  # Who reads it meanwhile sees the old one or the new.
        return kept

    def delete(self, name: str) -> None:
        """Deletes the direction of that name. Raises NOT_FOUND as `get` does."""
        self.get(name)
        assert self._folder is not None, "`get` raises without a folder"
        with self._locked() as folder:
            _file(folder, name).unlink(missing_ok=True)

    def _read(self, name: str) -> KeptDirection | None:
        """The direction of that name, or None where there is none or it has expired."""
        assert self._folder is not None, "the caller has checked that there is one"
        try:
            found = _from_json(json.loads(_file(self._folder, name).read_text()))
        except FileNotFoundError:
            return None
        return found if found.expires > time.time() else None

    @contextmanager
    def _locked(self) -> Iterator[Path]:
        """The folder, in which no other front-end changes anything meanwhile."""
        if self._folder is None:
            raise _full("this server keeps no directions")
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._folder


class DirectionStore:
    """The directions of all owners, below a folder that all front-ends share; without one nobody can keep any."""

    def __init__(self, folder: Path | None, limits: LimitSettings) -> None:
        self._folder, self._limits = folder, limits
        self._known: dict[str, Directions] = {}

    def of(self, owner: str) -> Directions:
        """Those of one owner, by the name of its token; of all callers together where that is empty."""
        if owner not in self._known:
            folder = self._folder and self._folder / hashlib.sha256(owner.encode()).hexdigest()
            self._known[owner] = Directions(folder, self._limits)
        return self._known[owner]


NO_DIRECTIONS = Directions(None, LimitSettings())


def _full(text: str) -> RequestError:
    return RequestError(grpc.StatusCode.FAILED_PRECONDITION, "NO_ROOM_FOR_DIRECTION", f"keep_as: {text}")


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}{ENDING}"


def _to_json(kept: KeptDirection) -> dict[str, object]:
    numbers = base64.b64encode(kept.vector.astype("<f4").tobytes()).decode()
    facts = {"name": kept.name, "model": kept.model, "digest": kept.digest, "layer": kept.layer}
    return {**facts, "vector": numbers, "expires": kept.expires}


def _from_json(document: dict[str, str | float]) -> KeptDirection:
    numbers = np.frombuffer(base64.b64decode(str(document["vector"])), "<f4")
    name, model, digest, layer = (str(document[field]) for field in ("name", "model", "digest", "layer"))
    return KeptDirection(name, model, digest, layer, numbers, float(document["expires"]))
