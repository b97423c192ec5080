"""An index folder that is open for reading, whatever it holds.

manifest.json            what it is of, and the size and SHA-256 of every other file
names.bin  names.idx     the examples' file or row ids; where each begins
thumbs.bin  thumbs.idx   small pictures of them, PNG or JPEG
"""

import hashlib
import logging
import mmap
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ...models.card import Framing, ModelCard

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
Array = np.ndarray[Any, Any]


class IndexFault(ValueError):
    """An index that cannot be used; the text names its folder and says why."""


class File(BaseModel):
    """Size and digest of a file of the index."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str


class FolderManifest(BaseModel):
    """What every index says of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    model: str
    weights_digest: str
    preprocessing: str
    dataset: str  # Digest of the examples' names and labels.
    count: int
    files: dict[str, File] = {}


M = TypeVar("M", bound=FolderManifest)


class IndexFolder(Generic[M]):
    """An index that is open for reading. Nothing of it is copied into memory but what is asked for."""

    def __init__(self, path: Path, kind: type[M], version: int) -> None:
        """Raises IndexFault for one that is missing, of another version, or whose files have other sizes."""
        self.path, self._kind, self._version = path, kind, version
        self.manifest, self.digest = read_manifest(path, kind, version)
        for name, file in self.manifest.files.items():
            size = (path / name).stat().st_size if (path / name).is_file() else None
            if size is None:
                raise IndexFault(f"index {path}: {name} is missing; build the index again")
            if size != file.bytes:
                raise IndexFault(f"index {path}: {name} has {size} bytes and must have {file.bytes}; build it again")

    def __len__(self) -> int:
        return self.manifest.count

    def verify(self) -> None:
        """Reads every file once, which also warms the page cache. Raises IndexFault for one that was changed."""
        for name, file in self.manifest.files.items():
            if digest(self.path / name) != file.sha256:
                raise IndexFault(f"index {self.path}: {name} is damaged; build the index again")

    def hold(self) -> None:
        """Maps its files, so that it stays what it is where another index takes its folder. Raises IndexFault."""
        self.map_all()
        if read_manifest(self.path, self._kind, self._version)[1] != self.digest:
            raise IndexFault(f"index {self.path} was replaced while it was opened; try again")

    def map_all(self) -> None:
        """Maps every file that is read later."""
        self._records  # noqa: B018

    def name(self, row: int) -> str:
        """The example's file or row id."""
        return self.record("names", row).decode()

    def thumbnail(self, row: int) -> bytes:
        """A small picture, PNG or JPEG."""
        return self.record("thumbs", row)

    def record(self, kind: str, row: int) -> bytes:
        """One of the records of kind.bin, whose beginnings are in kind.idx."""
        begins, data = self._records[kind]
        return data[int(begins[row]) : int(begins[row + 1])]

    def map_file(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """A file as an array of that shape, writable for torch; what is written stays in memory."""
        return np.memmap(self.path / name, dtype, "c", shape=shape)

    @cached_property
    def _records(self) -> dict[str, tuple[Array, mmap.mmap]]:
        kinds = [name.removesuffix(".idx") for name in self.manifest.files if name.endswith(".idx")]
        return {kind: (self._begins(kind), self._blob(kind)) for kind in kinds}

    def _begins(self, kind: str) -> Array:
        return np.memmap(self.path / f"{kind}.idx", np.dtype("<u8"), "r")

    def _blob(self, kind: str) -> mmap.mmap:
        with (self.path / f"{kind}.bin").open("rb") as file:
            if not self.manifest.files[f"{kind}.bin"].bytes:
                return mmap.mmap(-1, 1)  # An empty file cannot be mapped.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


I = TypeVar("I", bound=IndexFolder[Any])  # noqa: E741


class HeldIndexes(Generic[I]):
    """The indexes of one kind that a process holds, by folder and digest."""

    def __init__(self, kind: Callable[[Path], I], what: str) -> None:
        """`what`: the name of the kind with its article, for the log."""
        self._kind, self._what = kind, what
        self._held: dict[tuple[str, str], I] = {}

    def opened(self, folder: str, digest: str = "") -> I:
        """The index in a folder, as it was when it was opened first.

        `digest`: which index it must be; empty for whatever is there. Raises IndexFault.
        """
        index = self._held.get((folder, digest))
        if index is None:
            index = self._kind(Path(folder))
            if digest not in ("", index.digest):
                raise IndexFault(f"index {folder} has changed since its model was loaded; reload the model")
            index.hold()
            self._held[folder, digest] = index
        return index

    def keep(self, needed: set[tuple[str, str]]) -> None:
        """Opens these indexes, and lets go of all others."""
        for key in self._held.keys() - needed:
            del self._held[key]
        for key in needed:
            try:
                self.opened(*key)
            except (OSError, IndexFault) as error:
                log.error("%s cannot be used: %s", self._what, error)


def read_manifest(path: Path, kind: type[M], version: int) -> tuple[M, str]:
    """The manifest of a folder, and its SHA-256. Raises IndexFault."""
    file = path / MANIFEST
    if not file.is_file():
        raise IndexFault(f"index {path}: there is no {MANIFEST}; `gradserve index` builds one")
    data = file.read_bytes()
    try:
        manifest = kind.model_validate_json(data)
    except ValidationError as error:
        raise IndexFault(f"index {path}: {MANIFEST} cannot be read; build the index again") from error
    if manifest.version != version:
        text = f"index {path} has version {manifest.version}, and this server reads version {version}"
        raise IndexFault(f"{text}; build it again")
    return manifest, hashlib.sha256(data).hexdigest()


def check_origin(manifest: FolderManifest, card: ModelCard, folder: Path, hint: str) -> None:
    """Raises IndexFault for an index of other weights or of another preprocessing; `hint` says what to do."""
    if manifest.weights_digest != card.digest:
        theirs, ours = manifest.weights_digest[:12], card.digest[:12]
        raise IndexFault(f"index {folder} is of weights {theirs}, but {card.name} has {ours}; {hint}")
    if manifest.preprocessing != preprocessing(card):
        raise IndexFault(f"index {folder} is of other input than {card.name} has now; {hint}")


def preprocessing(card: ModelCard) -> str:
    """What decides which numbers the network sees of a picture."""
    framing = card.resize  # One number where it is the shorter side, so that indexes of earlier releases stay valid.
    resize = framing.height if framing == Framing(framing.height, framing.height) else tuple(framing)
    facts = (card.height, card.width, resize, card.interpolation, card.mean, card.std)
    return " ".join(map(str, facts))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(path: Path, names: Iterable[str]) -> dict[str, File]:
    """Size and digest of the files of a folder."""
    return {name: File(bytes=(path / name).stat().st_size, sha256=digest(path / name)) for name in names}
