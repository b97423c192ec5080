"""scikit-learn's bundled digits, as the service sees them."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HELD_OUT = 360
SPLIT = Path(__file__).with_name("split.npy")  # [1797] row numbers, training first: a split stratified by label


def pixels(values: np.ndarray) -> np.ndarray:
    """scikit-learn's [N, 64] in 0..16 -> bytes [N, 8, 8, 3]."""
    grey = (values.reshape(-1, 8, 8, 1) / 16 * 255).round().astype(np.uint8)
    return np.repeat(grey, 3, axis=3)


def images(values: np.ndarray) -> Tensor:
    """scikit-learn's [N, 64] -> [N, 3, 8, 8], normalised."""
    return ((torch.from_numpy(pixels(values)).permute(0, 3, 1, 2).float() / 255) - 0.5) / 0.5


def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training values, held-out values, training labels, held-out labels; stratified, always the same.

    The file is read without importing scikit-learn, which takes a second of the server's first start.
    """
    package = find_spec("sklearn")
    assert package is not None, "scikit-learn is a requirement of the server"
    rows = np.loadtxt(Path(str(package.origin)).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    rows = rows[np.load(SPLIT)]
    values, labels = rows[:, :-1], rows[:, -1].astype(np.int64)
    return values[:-HELD_OUT], values[-HELD_OUT:], labels[:-HELD_OUT], labels[-HELD_OUT:]


def split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images, held-out images, training labels, held-out labels."""
    x, x_test, y, y_test = parts()
    return images(x), images(x_test), torch.from_numpy(y), torch.from_numpy(y_test)
