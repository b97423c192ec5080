"""What an index is built of: the examples, and what it is tied to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .folder import Array

# A progress callback: the name of the stage, how much of it is done, and its total.
Report = Callable[[str, int, int], None]


def no_report(what: str, done: int, total: int) -> None:
    """Default progress callback: does nothing."""


class Examples(Protocol):
    """A data set as the model sees it; `rows` are numbers of examples."""

    def __len__(self) -> int: ...
    def images(self, rows: Sequence[int]) -> Array:
        """[n, H, W, 3] uint8, preprocessed."""

    def labels(self, rows: Sequence[int]) -> Array:
        """[n] class indices; -1 where there is no label, which an influence index has no use for."""

    def names(self, rows: Sequence[int]) -> list[str]:
        """File or row ids."""

    def digest(self) -> str:
        """SHA-256 of names and labels, by which two indexes know that they are of the same examples."""

    def thumbnails(self, rows: Sequence[int]) -> list[bytes]:
        """PNG or JPEG files; empty where there are none."""


@dataclass(frozen=True)
class IndexOrigin:
    """What the index is tied to besides the weights: digests."""

    preprocessing: str
    dataset: str
