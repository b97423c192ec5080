"""What an index is built of, and how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ....models.card import ModelCard
from ..index import Array, IndexFault

# A progress callback: the name of the stage, how much of it is done, and its total.
Report = Callable[[str, int, int], None]


def no_report(what: str, done: int, total: int) -> None:
    """Default progress callback: does nothing."""


class Examples(Protocol):
    """A training set as the model sees it; `rows` are numbers of examples."""

    def __len__(self) -> int: ...
    def images(self, rows: Sequence[int]) -> Array:
        """[n, H, W, 3] uint8, preprocessed."""

    def labels(self, rows: Sequence[int]) -> Array:
        """[n] class indices."""

    def names(self, rows: Sequence[int]) -> list[str]:
        """File or row ids."""

    def digest(self) -> str:
        """SHA-256 of names and labels, by which two indexes know that they are of the same examples."""

    def thumbnails(self, rows: Sequence[int]) -> list[bytes]:
        """PNG or JPEG files; empty where there are none."""


def no_influence(card: ModelCard) -> str:
    """Why there is no influence for a model, or empty."""
    if card.head != "multilabel":
        return ""
    why = f'{card.name} has independent labels (head = "multilabel"), and an index has one label for each example'
    return f"{why}; Embed works, and so does a softmax or binary model"


def check_head(card: ModelCard) -> None:
    """Raises IndexFault for a model that can have no index."""
    if why := no_influence(card):
        raise IndexFault(why)


@dataclass(frozen=True)
class IndexPlan:
    """How the model was trained, and what the index is to hold."""

    weight_decay: float | None = None  # The lambda of mean loss + lambda / 2 |theta|^2; None where it is unknown.
    label_smoothing: float = 0.0
    last_layer_only: bool = False  # Whether the other layers were frozen.
    size: int = 256  # Numbers that each example's gradient is projected to, k.
    rank: int | None = None  # Directions of each side of a layer; None: by the number of layers.
    seed: int = 0
    feature_scale: float = 1.0  # With last_layer_only: the factor of the features in training.


@dataclass(frozen=True)
class IndexOrigin:
    """What the index is tied to besides the weights: digests."""

    preprocessing: str
    dataset: str
