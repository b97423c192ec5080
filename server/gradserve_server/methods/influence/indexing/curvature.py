"""The Gauss-Newton matrix in the projected space, and the inverse root that makes influence an inner product."""

import torch
from torch import Tensor

PRODUCT_ROWS = 1024  # Rows that are multiplied at once.


class Curvature:
    """Streams projected gradients; sums in float64."""

    def __init__(self, size: int) -> None:
        self.sums = {
            "gauss_newton": torch.zeros(size, size, dtype=torch.float64),
            "moment": torch.zeros(size, size, dtype=torch.float64),  # The second moment of the training gradients.
            "gradient": torch.zeros(size, dtype=torch.float64),
            "norms": torch.zeros((), dtype=torch.float64),
        }
        self._waiting: dict[str, list[Tensor]] = {"gauss_newton": [], "moment": []}

    def add_expectation(self, weights: Tensor, rows: Tensor) -> None:
        """Gradients [n, size] of log p_c with the weights [n] of the expectation over classes."""
        self._add("gauss_newton", rows * weights.sqrt()[:, None])

    def add_gradients(self, rows: Tensor) -> None:
        """Gradients [n, size] of the examples' training losses."""
        self._add("moment", rows)
        self.sums["gradient"] += rows.double().sum(0).cpu()
        self.sums["norms"] += rows.double().norm(dim=1).sum().cpu()

    def flush(self) -> None:
        """Adds the products of the rows that were collected to the sums."""
        for name, rows in self._waiting.items():
            if rows:
                together = torch.cat(rows)
                self.sums[name] += (together.T @ together).double().cpu()
                rows.clear()

    def _add(self, name: str, rows: Tensor) -> None:
        self._waiting[name].append(rows)
        if sum(map(len, self._waiting[name])) >= PRODUCT_ROWS:
            self.flush()

    def stationarity(self) -> float:
        """|mean gradient| / mean |gradient| over the examples seen."""
        return float(self.sums["gradient"].norm() / self.sums["norms"].clamp_min(1e-30))

    def whitened(self, count: int, size: int, weight_decay: float) -> tuple[Tensor, Tensor, float]:
        """(G + damping)^-1/2 [k0, k0], its product with the leading `size` directions of the whitened training
        gradients [size, k0], and the damping, which is relative: max(mean diagonal, weight decay).
        """
        gauss_newton = self.sums["gauss_newton"] / count
        damping = max(float(gauss_newton.diagonal().mean()), weight_decay, 1e-30)
        values, vectors = torch.linalg.eigh(gauss_newton)
        root = (vectors * (values.clamp_min(0) + damping).rsqrt()) @ vectors.T
        leading = torch.linalg.eigh(root @ (self.sums["moment"] / count) @ root).eigenvectors.flip(1)[:, :size]
        return root, leading.T @ root, damping
