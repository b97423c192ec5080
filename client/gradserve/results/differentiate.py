"""What Differentiate gives: the gradients of a batch of pictures."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradserve.results.common import Provenance, Region, Result, npz_path, save_arrays


@dataclass(frozen=True, eq=False)
class Gradients(Result):
    """Values and gradients in the order of the pictures.

    values: [N], the goal's value. logits: [N, classes]; None where a goal reads layers alone. gradient: float32, by
    pixels in [0, 1] [N, H, W, 3], by a layer [N, C, h, w] or [N, C]; None with forward_only. regions: what the model
    saw of each picture.
    """

    values: np.ndarray[Any, np.dtype[np.float64]]
    logits: np.ndarray[Any, np.dtype[np.float32]] | None
    gradient: np.ndarray[Any, np.dtype[np.float32]] | None
    regions: tuple[Region, ...]
    provenance: Provenance

    def __repr__(self) -> str:
        shape = "" if self.gradient is None else f", gradient {' x '.join(map(str, self.gradient.shape))}"
        return f"<Gradients of {len(self)}: values {np.round(self.values, 4).tolist()}{shape}, {self.provenance.model}>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save `gradient`, `values` and `logits`, those that are there, and `metadata` (JSON) as a .npz file."""
        arrays = {"gradient": self.gradient, "values": self.values, "logits": self.logits}
        return save_arrays(npz_path(path), self.to_dict(), **arrays)

    def __len__(self) -> int:
        return len(self.values)
