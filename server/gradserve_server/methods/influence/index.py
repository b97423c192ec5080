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

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...models.card import ModelCard
from ..indexes.folder import Array, FolderManifest, HeldIndexes, IndexFolder

VERSION = 2  # Version 1 had wrong gradients for layers that do more than their class says.
PROJECTION, HEAD = "projection.safetensors", "head.safetensors"
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


class Manifest(FolderManifest):
    """What an index is of, and how it was made."""

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


class Index(IndexFolder[Manifest]):
    """An influence index that is open for reading."""

    def __init__(self, path: Path) -> None:
        """Raises IndexFault for one that is missing, of another version, or whose files have other sizes."""
        super().__init__(path, Manifest, VERSION)

    def map_all(self) -> None:
        """Maps every file that is read later."""
        super().map_all()
        mapped = ("columns", "vectors", "features", "residuals")
        for name in [each for each in mapped if f"{each}.bin" in self.manifest.files]:
            getattr(self, name)

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

    def chunks(self) -> Iterator[slice]:
        """All rows, CHUNK_ROWS by CHUNK_ROWS."""
        return (slice(i, min(i + CHUNK_ROWS, len(self))) for i in range(0, len(self), CHUNK_ROWS))

    def _mapped(self, name: str, dtype: np.dtype[Any], columns: tuple[int, ...]) -> Array:
        return self.map_file(name, dtype, (len(self), *columns))


_held = HeldIndexes(Index, "an influence index")
opened = _held.opened


def hold_those_of(cards: Iterable[ModelCard]) -> None:
    """Opens the indexes of these models, and lets go of all others."""
    _held.keep({(card.index, card.index_digest) for card in cards if card.index})


def soft_labels(index: Index, rows: Any) -> Array:
    """The labels from which the rows' residuals were computed: [m, C], one-hot but for label smoothing."""
    return softened(index.columns["label"][rows], index.manifest.classes, index.manifest.label_smoothing)


def softened(labels: Array, classes: int, smoothing: float) -> Array:
    """Labels [m] as rows [m, C] that sum to 1, one-hot but for label smoothing."""
    out = np.full((len(labels), classes), smoothing / classes)
    out[np.arange(len(labels)), labels] += 1 - smoothing
    return out


def extremes(scores: Array, count: int) -> tuple[Array, Array]:
    """Rows of the largest scores, best first, and of the smallest, lowest first: [N] -> at most [count] each."""
    count = min(count, len(scores))
    if count == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    high = np.argpartition(scores, -count)[-count:]
    low = np.argpartition(scores, count - 1)[:count]
    return high[np.argsort(-scores[high], kind="stable")], low[np.argsort(scores[low], kind="stable")]
