"""What the RPCs share on the way from an outcome to a reply. Everything here runs in threads."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from gradserve.v1 import common_pb2 as pb

from .. import __version__
from ..methods.targets import AnyTarget, Contrast, Direction, Similarity
from ..models.card import HeadKind, ModelCard
from ..pool.wire import Outcome
from .request import PRECISIONS, Bound

DTYPES: dict[str, Any] = {"float16": pb.DTYPE_FLOAT16, "int16": pb.DTYPE_BFLOAT16}
MAX_NAMES = 3  # The most names of equal weight that a sum's name lists.
PRECISION_NUMBERS: dict[str, Any] = {name: number for number, name in PRECISIONS.items()}


def best(logits: np.ndarray, count: int) -> list[int]:
    """The classes of the highest logits, best first."""
    classes: list[int] = np.argsort(-logits, kind="stable")[:count].tolist()
    return classes


def scores(logits: np.ndarray, classes: Sequence[int], card: ModelCard) -> list[pb.Score]:
    """Some classes with their probabilities and logits."""
    logits, places = logits.astype(np.float64), list(classes)  # A tuple would be one place of several dimensions.
    probabilities = probabilities_of(logits, card.head)
    numbers = zip(places, probabilities[places].tolist(), logits[places].tolist(), strict=True)
    return [
        pb.Score(class_index=i, class_name=card.classes[i], probability=probability, logit=logit)
        for i, probability, logit in numbers
    ]


def probabilities_of(logits: np.ndarray, head: HeadKind) -> np.ndarray:
    """The probability of each class, [classes]: they sum to 1 under a softmax head, and are sigmoids under others."""
    if head == "softmax":
        shifted = np.exp(logits - logits.max())
        return np.asarray(shifted / shifted.sum())
    small = np.exp(-np.abs(logits))  # This never overflows.
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1 + small))


def target_message(target: AnyTarget) -> pb.Target:
    """A target as it stands in an answer: a class for a rank, no picture of a similarity, no numbers of a direction."""
    if isinstance(target, Contrast):
        terms = [pb.WeightedTarget(target=target_message(each), weight=weight) for each, weight in target.terms]
        return pb.Target(contrast=pb.Contrast(terms=terms))
    if isinstance(target, Similarity):
        return pb.Target(similarity=pb.Similarity(layer=target.layer))
    if isinstance(target, Direction):
        return pb.Target(direction=pb.Direction(layer=target.layer, name=target.name))
    if not target.layer:
        return pb.Target(class_index=target.label)
    unit = pb.Unit(layer=target.layer, channel=target.channel)
    if target.position is not None:
        unit.y, unit.x = target.position
    return pb.Target(unit=unit)


def target_name(target: pb.Target, card: ModelCard) -> str:
    """The class's name, "layer4.1:17 (3, 5)", "tabby - tiger cat" or "similarity in layer4"."""
    kind = target.WhichOneof("kind")
    if kind == "class_index":
        return card.classes[target.class_index]
    if kind == "contrast":
        return sum_name([(term.weight, target_name(term.target, card)) for term in target.contrast.terms])
    if kind == "similarity":
        return f"similarity in {target.similarity.layer}"
    if kind == "direction":
        return direction_name(target.direction)
    unit = target.unit
    return f"{unit.layer}:{unit.channel}" + (f" ({unit.y}, {unit.x})" if unit.HasField("y") else "")


def direction_name(direction: pb.Direction) -> str:
    """ "stripes in features.12", or "a direction in features.12"."""
    return f"{direction.name or 'a direction'} in {direction.layer}"


def sum_name(terms: Sequence[tuple[float, str]]) -> str:
    """A weighted sum in words: "features.4:17 - 0.5 volcano", "tabby - 0.25 (lynx, tiger cat, cougar, and 1 more)"."""
    words: list[str] = []
    for weight, group in groupby(terms, key=itemgetter(0)):
        names = [name for _, name in group]
        if len(names) > 1 and abs(weight) != 1:
            more = f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
            names = [f"({', '.join(names[:MAX_NAMES])}{more})"]
        for name in names:
            if words or weight < 0:
                words.append("-" if weight < 0 else "+")
            if abs(weight) != 1:
                words.append(f"{abs(weight):.4g}")
            words.append(name)
    return " ".join(words)


def fill_tensor(message: pb.Tensor, values: np.ndarray) -> None:
    """Writes float16, float32, or int16 with the bits of bfloat16 into a message; large ones are copied once only."""
    message.shape.extend(values.shape)
    message.dtype = DTYPES.get(values.dtype.name, pb.DTYPE_FLOAT32)
    message.data = values.tobytes()


def tensor(values: np.ndarray) -> pb.Tensor:
    """float16 or float32 as a Tensor."""
    message = pb.Tensor()
    fill_tensor(message, values)
    return message


def provenance(bound: Bound, *outcomes: Outcome) -> pb.Provenance:
    """Where an answer comes from: enough to repeat the request."""
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


def is_partial(result: Any) -> bool:
    """Whether less was done for a result, or for one of several, than was asked for.

    Results without the field `asked` cannot be partial, and those for which fewer samples sufficed (`settled`) are not.
    """
    results = result if isinstance(result, list) else [result]
    counted = (each for each in results if hasattr(each, "asked"))
    return any(each.done < each.asked and not getattr(each, "settled", False) for each in counted)
