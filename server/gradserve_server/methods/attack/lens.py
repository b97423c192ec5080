"""How the attacked system sees a picture before the model does."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...engine.job import Run

Pull = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Lens:
    """Each picture becomes `views` rows."""

    @property
    def views(self) -> int:
        """Rows for each picture."""
        return 1

    def bare(self) -> "Lens":
        """The same without the defence."""
        return self

    def defended(self) -> "Lens":
        """The same without random changes: what is judged."""
        return self

    def judge(self, x: Tensor, run: Run) -> Tensor:
        """What the model is judged on: the picture through the defence alone, [n, 3, H, W]."""
        return x

    def see(self, images: Tensor, run: Run, step: int) -> tuple[Tensor, Pull]:
        """The rows that the model gets, [n * views, 3, H, W], and what takes their gradients back to the pictures'."""
        return images, lambda grad: grad
