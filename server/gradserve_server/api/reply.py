"""What the RPCs share on the way from an outcome to a reply. Everything here runs in threads."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradserve.v1 import common_pb2 as pb

from .. import __version__
from ..methods.targets import Target
from ..models.card import HeadKind, ModelCard
from ..pool.wire import Outcome
from .request import PRECISIONS, Bound

PRECISION_NUMBERS: dict[str, Any] = {name: number for number, name in PRECISIONS.items()}


def best(logits: np.ndarray, count: int) -> list[int]:
    """The classes of the highest logits, best first."""
    return [int(i) for i in np.argsort(-logits, kind="stable")[:count]]


def scores(logits: np.ndarray, classes: Sequence[int], card: ModelCard) -> list[pb.Score]:
    """Some classes with their probabilities and logits."""
    logits = logits.astype(np.float64)
    probabilities = probabilities_of(logits, card.head)
    return [
        pb.Score(class_index=i, class_name=card.classes[i], probability=probabilities[i], logit=logits[i])
        for i in classes
    ]


def probabilities_of(logits: np.ndarray, head: HeadKind) -> np.ndarray:
    """Of each class, [classes]: they sum to 1 under a softmax head and are independent sigmoids under the others."""
    if head == "softmax":
        shifted = np.exp(logits - logits.max())
        return np.asarray(shifted / shifted.sum())
    small = np.exp(-np.abs(logits))  # This never overflows.
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1 + small))


def resolved_target(target: Target, label: int | None) -> pb.Target:
    """The class that a name or a rank turned out to be, or the unit."""
    if not target.layer:
        return pb.Target(class_index=label)
    unit = pb.Unit(layer=target.layer, channel=target.channel)
    if target.position is not None:
        unit.y, unit.x = target.position
    return pb.Target(unit=unit)


def target_name(target: pb.Target, card: ModelCard) -> str:
    """The class's name, or "layer4.1:17 (3, 5)"."""
    if target.WhichOneof("kind") == "class_index":
        return card.classes[target.class_index]
    unit = target.unit
    return f"{unit.layer}:{unit.channel}" + (f" ({unit.y}, {unit.x})" if unit.HasField("y") else "")


def tensor(values: np.ndarray) -> pb.Tensor:
    """float16 or float32 as a Tensor."""
    dtype = pb.DTYPE_FLOAT16 if values.dtype == np.float16 else pb.DTYPE_FLOAT32
    return pb.Tensor(shape=values.shape, dtype=dtype, data=values.tobytes())


def provenance(bound: Bound, *outcomes: Outcome) -> pb.Provenance:
    """Enough to repeat the request."""
    return pb.Provenance(
        model=bound.card.name,
        weights_digest=bound.card.digest,
        seed=bound.task.seed,
        precision=PRECISION_NUMBERS[bound.task.precision],
        preprocess=bound.picture.preprocess,
        rows=sum(outcome.rows for outcome in outcomes),
        queue_seconds=outcomes[0].queue_seconds,
        compute_seconds=sum(outcome.compute_seconds for outcome in outcomes),
        server_version=__version__,
        warnings=provenance_notes(bound.card),
        request_id=bound.task.id,
        quick_decode=bound.picture.quick_decode,
        alone=bound.task.alone,
    )


def provenance_notes(card: ModelCard) -> list[str]:
    """The card's notes that a reader of every answer should know: of its outputs, and of half precision inside it."""
    return [note for note in card.notes if note.startswith(("SOFTMAX_OUTPUTS", "HALF_INSIDE"))]


def probability_notes(card: ModelCard) -> list[str]:
    """The card's note that its logits are logarithms of probabilities, which concerns every answer by logits."""
    return [note for note in card.notes if note.startswith("SOFTMAX_OUTPUTS")]
