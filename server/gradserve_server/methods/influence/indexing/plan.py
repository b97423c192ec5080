"""How an influence index is built."""

from dataclasses import dataclass

from ....models.card import ModelCard
from ...indexes.folder import IndexFault


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
