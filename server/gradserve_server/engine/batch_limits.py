"""How many rows a pass may have."""

from collections.abc import Mapping

import torch

from ..models.prepared import Prepared
from .take import Key

IMAGENET_PIXELS = 224 * 224
CPU_ROWS = 8  # Usual rows of a pass over images of 224x224 on a CPU.
MAX_CPU_ROWS = 15  # Most rows of a pass on a CPU: from 16 on oneDNN takes kernels that round otherwise.
MAX_CPU_ROWS_FAST = 64  # The same in FAST, which rounds anyway.
GPU_ROWS = 64  # Usual rows of a pass over images of 224x224 on a GPU.
MAX_GPU_ROWS = 256  # Most rows of a pass on a GPU.
LIMIT_GROWTH = 1.02  # Factor by which a lowered limit rises with every pass that fills it.


def default_rows(
    device: torch.device, height: int, width: int, precision: str = "exact", most: int | None = None
) -> int:
    """Rows per pass where the configuration says nothing; `most` replaces the precision's own upper bound."""
    usual = GPU_ROWS if device.type == "cuda" else CPU_ROWS
    return max(1, min(most or max_rows(device, precision), usual * IMAGENET_PIXELS // max(1, height * width)))


def max_rows(device: torch.device, precision: str) -> int:
    """Most rows per pass where the configuration says nothing, however small the images."""
    if device.type == "cuda":
        return MAX_GPU_ROWS
    return MAX_CPU_ROWS_FAST if precision == "fast" else MAX_CPU_ROWS


class BatchLimits:
    """The most rows of a pass, by key. A limit falls when memory runs out, and rises again with later passes."""

    def __init__(self, models: Mapping[str, Prepared], rows: int | None = None) -> None:
        """`rows` overrides the rows per pass for every model and size."""
        self._models = models
        self._rows = rows
        self._lowered: dict[Key, float] = {}  # Limits by kind of key, for which memory ran out.

    def limit(self, key: Key) -> int:
        """The most rows of that key in one pass. A job that runs alone always has one, whatever the memory."""
        return 1 if key.alone else int(self._lowered.get(key.kind, self._usual(key)))

    def lower(self, key: Key, rows: int) -> None:
        """Sets a lower limit, because a pass ran out of memory."""
        self._lowered[key.kind] = max(1, rows)

    def grow(self, key: Key, rows: int) -> None:
        """Raises a lowered limit after a pass of that many rows, if that filled it: memory may be free again."""
        lowered = self._lowered.get(key.kind)
        if lowered is None or rows < int(lowered):
            return
        self._lowered[key.kind] = lowered * LIMIT_GROWTH
        if lowered > self._usual(key):
            del self._lowered[key.kind]

    def _usual(self, key: Key) -> int:
        """The limit while memory suffices."""
        model = self._models[key.model]
        if model.card.unbatched:
            return 1
        if self._rows:
            return self._rows
        tuned = model.card.rows.get(key.precision)
        if tuned is None:
            return default_rows(model.device, key.height, key.width, key.precision)
        return max(1, tuned * model.card.height * model.card.width // (key.height * key.width))
