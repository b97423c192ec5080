"""An influence index: what is known of a training set, in a folder, memory-mapped.

manifest.json            what it is of, and the size and SHA-256 of every other file
columns.bin              a record for each example: label, prediction, loss, self-influence, ...
names.bin  names.idx     the examples' file or row ids; where each begins
thumbs.bin  thumbs.idx   small pictures of them, PNG or JPEG
features.bin             [N, D] float16, what goes into the last layer
vectors.bin              [N, k] float16, projected and whitened gradients        (projected Gauss-Newton)
projection.safetensors   bases of the layers, and what whitens
residuals.bin            [N, C] float32, probabilities minus labels              (exact last layer)
head.safetensors         the Cholesky factor of the last layer's Hessian
"""

import hashlib
import logging
import mmap
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ...models.card import ModelCard

log = logging.getLogger(__name__)

VERSION = 2  # Version 1 had wrong gradients for layers that do more than their class says.
MANIFEST, PROJECTION, HEAD = "manifest.json", "projection.safetensors", "head.safetensors"
CHUNK_ROWS = 2048  # Examples that are scored at once.
EstimateName = Literal["projected", "last_layer", "neighbours"]
COLUMNS = np.dtype(
    [
        ("label", "<i4"),
        ("predicted", "<i4"),
        ("loss", "<f4"),  # The training loss.
        ("margin", "<f4"),  # The label's log p - log(1 - p).
        ("self_influence", "<f4"),  # The example's own g^T H^-1 g, by the default method.
        ("parameter_change", "<f4"),  # How far the parameters move without the example, |H^-1 g| / N.
        ("disagreement", "<f4"),  # Share of the nearest examples with another label.
        ("suspicion", "<f4"),  # Mean of the ranks by self-influence and disagreement, 0 to 1.
    ]
)
Array = np.ndarray[Any, Any]


class IndexFault(ValueError):
    """An index that cannot be used; the text names its folder and says why."""


class File(BaseModel):
    """Size and digest of a file of the index."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What an index is of, and how it was made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    model: str
    weights_digest: str
    preprocessing: str
    dataset: str  # Digest of the examples' names, labels and pixels.
    count: int
    classes: int
    features: int
    feature_layer: str  # The layer whose input the features are.
    methods: tuple[EstimateName, ...]  # The first is the default.
    weight_decay: float | None
    label_smoothing: float
    size: int = 0  # The k of `vectors`.
    damping: float = 0.0
    coverage: float = 0.0
    head_coverage: float = 0.0
    head_damping: float = 0.0
    head_exact: bool = False
    stationarity: float = 0.0
    warnings: tuple[str, ...] = ()
    files: dict[str, File] = {}


class Index:
    """An index that is open for reading. Nothing of it is copied into memory but what is asked for."""

    def __init__(self, path: Path) -> None:
        """Raises IndexFault for one that is missing, of another version, or whose files have other sizes."""
        self.path = path
        self.manifest, self.digest = _manifest(path)
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
        mapped = ("columns", "vectors", "features", "residuals")
        for name in [each for each in mapped if f"{each}.bin" in self.manifest.files]:
            getattr(self, name)
        self._records  # noqa: B018
        if _manifest(self.path)[1] != self.digest:
            raise IndexFault(f"index {self.path} was replaced while it was opened; try again")

    @cached_property
    def columns(self) -> Array:
        """COLUMNS of every example."""
        return self._mapped("columns.bin", COLUMNS, ())

    @cached_property
    def vectors(self) -> Array:
        """[N, k], projected and whitened gradients."""
        return self._mapped("vectors.bin", np.dtype("<f2"), (self.manifest.size,))

    @cached_property
    def features(self) -> Array:
        """[N, D], what goes into the last layer."""
        return self._mapped("features.bin", np.dtype("<f2"), (self.manifest.features,))

    @cached_property
    def residuals(self) -> Array:
        """[N, C], probabilities minus labels."""
        return self._mapped("residuals.bin", np.dtype("<f4"), (self.manifest.classes,))

    def name(self, row: int) -> str:
        """The example's file or row id."""
        return self._record("names", row).decode()

    def thumbnail(self, row: int) -> bytes:
        """A small picture, PNG or JPEG."""
        return self._record("thumbs", row)

    def chunks(self) -> Iterator[slice]:
        """All rows, CHUNK_ROWS by CHUNK_ROWS."""
        return (slice(i, min(i + CHUNK_ROWS, len(self))) for i in range(0, len(self), CHUNK_ROWS))

    def _mapped(self, name: str, dtype: np.dtype[Any], columns: tuple[int, ...]) -> Array:
        return np.memmap(self.path / name, dtype, "c", shape=(len(self), *columns))  # Writable for torch.

    def _record(self, kind: str, row: int) -> bytes:
        begins, data = self._records[kind]
        return data[int(begins[row]) : int(begins[row + 1])]

    @cached_property
    def _records(self) -> dict[str, tuple[Array, mmap.mmap]]:
        return {kind: (self._begins(kind), self._blob(kind)) for kind in ("names", "thumbs")}

    def _begins(self, kind: str) -> Array:
        return np.memmap(self.path / f"{kind}.idx", np.dtype("<u8"), "r")

    def _blob(self, kind: str) -> mmap.mmap:
        with (self.path / f"{kind}.bin").open("rb") as file:
            if not self.manifest.files[f"{kind}.bin"].bytes:
                return mmap.mmap(-1, 1)  # An empty file cannot be mapped.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


_held: dict[tuple[str, str], Index] = {}  # By folder and digest.


def opened(folder: str, digest: str = "") -> Index:
    """The index in a folder, as it was when it was opened first.

    `digest`: which index it must be; empty for whatever is there. Raises IndexFault.
    """
    index = _held.get((folder, digest))
    if index is None:
        index = Index(Path(folder))
        if digest not in ("", index.digest):
            raise IndexFault(f"index {folder} has changed since its model was loaded; reload the model")
        index.hold()
        _held[folder, digest] = index
    return index


def hold_those_of(cards: Iterable[ModelCard]) -> None:
    """Opens the indexes of these models, and lets go of all others."""
    needed = {(card.index, card.index_digest) for card in cards if card.index}
    for key in _held.keys() - needed:
        del _held[key]
    for key in needed:
        try:
            opened(*key)
        except (OSError, IndexFault) as error:
            log.error("an influence index cannot be used: %s", error)


def soft_labels(index: Index, rows: Any) -> Array:
    """The labels from which the rows' residuals were computed: [m, C], one-hot but for label smoothing."""
    return softened(index.columns["label"][rows], index.manifest.classes, index.manifest.label_smoothing)


def softened(labels: Array, classes: int, smoothing: float) -> Array:
    """Labels [m] as rows [m, C] that sum to 1, one-hot but for label smoothing."""
    out = np.full((len(labels), classes), smoothing / classes)
    out[np.arange(len(labels)), labels] += 1 - smoothing
    return out


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(path: Path, names: Sequence[str]) -> dict[str, File]:
    """Size and digest of the files of a folder."""
    return {name: File(bytes=(path / name).stat().st_size, sha256=digest(path / name)) for name in names}


def extremes(scores: Array, count: int) -> tuple[Array, Array]:
    """Rows of the largest scores, best first, and of the smallest, lowest first: [N] -> at most [count] each."""
    count = min(count, len(scores))
    if count == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    high = np.argpartition(scores, -count)[-count:]
    low = np.argpartition(scores, count - 1)[:count]
    return high[np.argsort(-scores[high], kind="stable")], low[np.argsort(scores[low], kind="stable")]


def _manifest(path: Path) -> tuple[Manifest, str]:
    """The manifest of a folder, and its SHA-256."""
    file = path / MANIFEST
    if not file.is_file():
        raise IndexFault(f"index {path}: there is no {MANIFEST}; `gradserve index` builds one")
    try:
        data = file.read_bytes()
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise IndexFault(f"index {path}: {MANIFEST} cannot be read; build the index again") from error
    if manifest.version != VERSION:
        text = f"index {path} has version {manifest.version}, and this server reads version {VERSION}"
        raise IndexFault(f"{text}; build it again")
    return manifest, hashlib.sha256(data).hexdigest()
