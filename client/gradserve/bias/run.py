"""Explains the label of every picture, and measures how much of the positive values lies in the object's mask."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from gradserve.bias.masks import check_there, mask_path, read_mask, seen
from gradserve.client import Client
from gradserve.datasets import Dataset, Example
from gradserve.errors import PictureError
from gradserve.images import Array
from gradserve.parameters.method import Method
from gradserve.results.common import Result
from gradserve.results.explain import Explanation
from gradserve.transport.ordered import in_order, raise_if_common

OWN_MASKS = Method("smooth_grad", samples=10)  # Its map cuts objects out where no masks are given.


@dataclass(frozen=True)
class Evidence(Result):
    """Of one picture: its class, the share of the map's positive values in the mask, and that of the mask's area.

    `inside` is None where the map has no positive values.
    """

    id: str
    class_name: str
    inside: float | None
    area: float


@dataclass(frozen=True)
class Measured:
    """A picture's evidence, with what shows it: the explanation, and the mask [h, w] bool in the size of its map."""

    evidence: Evidence
    explanation: Explanation
    mask: Array


@dataclass(frozen=True)
class Failed:
    """A picture that could not be measured, and why."""

    id: str
    reason: str


def measure(
    client: Client,
    dataset: Dataset,
    method: Method,
    masks: Path | None,
    *,
    model: str,
    concurrency: int,
    arguments: Mapping[str, Any],
) -> Iterator[Measured | Failed]:
    """Each picture in turn. Without `masks`, a folder, the object is what another map of the network cuts out.

    Raises ValueError where a picture has no mask there, and GradserveError for what is wrong with all pictures.
    """
    if masks is not None:
        check_there(dataset, masks)
    methods = [method] if masks else [method, OWN_MASKS]
    arguments = {**arguments, "model": model, "segment": masks is None}

    def ask(example: Any) -> Any:
        white = read_mask(mask_path(masks, example)) if masks else None
        return client.explain(example.image, methods, target=[example.label], **arguments), white

    with closing(in_order(ask, cast(Any, dataset), concurrency, "return")) as answers:
        for example, answer in zip(dataset, answers, strict=True):
            if isinstance(answer, PictureError):
                raise_if_common(answer)
                yield Failed(example.id, str(answer.error))
                continue
            explanations, white = answer
            try:
                mask = _own_mask(explanations[1]) if white is None else _given_mask(white, explanations[0])
            except ValueError as error:
                yield Failed(example.id, str(error))
                continue
            yield Measured(evidence_of(example, explanations[0], mask), explanations[0], mask)


def evidence_of(example: Example, explanation: Explanation, mask: Array) -> Evidence:
    """How a map's positive values are shared out between the mask [h, w] and the rest."""
    positive = np.maximum(explanation.map.astype(np.float64), 0)
    total = float(positive.sum())
    inside = float(positive[mask].sum()) / total if total else None
    return Evidence(example.id, explanation.target_name, inside, float(mask.mean()))


def _given_mask(white: Array, explanation: Explanation) -> Array:
    """A mask of the whole picture as the model saw it, [h, w] bool. Raises ValueError for one of another size."""
    region = explanation.region
    if white.shape != (region.image_height, region.image_width):
        sizes = f"{white.shape[1]}x{white.shape[0]}, and the picture {region.image_width}x{region.image_height}"
        raise ValueError(f"its mask is {sizes}")
    return seen(white, region, explanation.map.shape)


def _own_mask(explanation: Explanation) -> Array:
    if explanation.segment is None:
        raise ValueError("no object was cut out: the map points to nothing")
    return explanation.segment.mask
