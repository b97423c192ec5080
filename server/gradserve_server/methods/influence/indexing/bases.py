"""Which directions of a layer's inputs and output gradients to keep."""

import torch
from torch import Tensor

MAX_WHOLE_COLUMNS = 1024  # The most columns of a second moment that is not sketched.
SKETCH_OVERSAMPLING = 4  # Columns of a sketch for each direction of the basis.
MAX_POSITIONS = 64  # The most positions of a map in the second moment; more are sampled at random.


class SecondMoment:
    """Streams rows and gives the leading eigenvectors of sum(row row^T), in float64.

    Wide ones only see a random sketch of it (Nystroem; Tropp et al. 2017, algorithm 3 without its shift).
    """

    def __init__(self, columns: int, rank: int, generator: torch.Generator) -> None:
        self.rank = min(rank, columns)
        sketched = columns > MAX_WHOLE_COLUMNS and SKETCH_OVERSAMPLING * rank < columns
        self.test = (
            torch.randn(columns, SKETCH_OVERSAMPLING * rank, generator=generator, dtype=torch.float64)
            if sketched
            else None
        )
        self.sum = torch.zeros(columns, columns if self.test is None else self.test.shape[1], dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """[M, columns] more."""
        rows = rows.reshape(-1, rows.shape[-1]).cpu()
        self.sum += rows.T @ (rows if self.test is None else rows @ self.test.to(rows))

    def basis(self) -> Tensor:
        """[columns, rank], orthonormal."""
        if self.test is None:
            leading: Tensor = torch.linalg.eigh(self.sum).eigenvectors.flip(1)
            return leading[:, : self.rank]
        values, vectors = torch.linalg.eigh(self.test.T @ self.sum)
        positive = values > 1e-12 * values[-1]
        half = self.sum @ (vectors[:, positive] / values[positive].sqrt())
        directions: Tensor = torch.linalg.svd(half, full_matrices=False)[0]
        return directions[:, : self.rank]


def thinned(rows: Tensor, generator: torch.Generator) -> Tensor:
    """[N, groups, positions, columns] with at most MAX_POSITIONS positions."""
    positions = rows.shape[2]
    if positions <= MAX_POSITIONS:
        return rows
    return rows[:, :, torch.randperm(positions, generator=generator)[:MAX_POSITIONS].to(rows.device)]
