"""scikit-learn's bundled digits, as the service sees them."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

HELD_OUT = 0.2


def pixels(values: np.ndarray) -> np.ndarray:
    """scikit-learn's [N, 64] in 0..16 -> bytes [N, 8, 8, 3]."""
    grey = (values.reshape(-1, 8, 8, 1) / 16 * 255).round().astype(np.uint8)
    return np.repeat(grey, 3, axis=3)


def images(values: np.ndarray) -> Tensor:
    """scikit-learn's [N, 64] -> [N, 3, 8, 8], normalised."""
    return ((torch.from_numpy(pixels(values)).permute(0, 3, 1, 2).float() / 255) - 0.5) / 0.5


def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training values, held-out values, training labels, held-out labels; stratified, always the same."""
    data = load_digits()
    found = train_test_split(data.data, data.target, test_size=HELD_OUT, random_state=0, stratify=data.target)
    return found[0], found[1], found[2], found[3]


def split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images, held-out images, training labels, held-out labels."""
    x, x_test, y, y_test = parts()
    return images(x), images(x_test), torch.from_numpy(y), torch.from_numpy(y_test)
