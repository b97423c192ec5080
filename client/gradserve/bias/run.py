"""Explains the label of every picture, and measures how much of the positive values lies in the object's mask."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from gradserve.client import Client
from gradserve.datasets import Dataset, Example
from gradserve.errors import PictureError
from gradserve.images import Array
from gradserve.parameters.method import Method
from gradserve.results.common import Region, Result
from gradserve.results.explain import Explanation
from gradserve.transport.ordered import in_order

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
        _check(dataset, masks)
    methods = [method] if masks else [method, OWN_MASKS]
    arguments = {**arguments, "model": model, "segment": masks is None}

    def ask(example: Any) -> Any:
        return client.explain(example.image, methods, target=[example.label], **arguments)

    answers = in_order(ask, cast(Any, dataset), concurrency, "return")
    for example, answer in zip(dataset, answers, strict=True):
        if isinstance(answer, PictureError):
            yield Failed(example.id, str(answer.error))
            continue
        try:
            mask = given_mask(masks, example, answer[0]) if masks else _own_mask(answer[1])
        except ValueError as error:
            yield Failed(example.id, str(error))
            continue
        yield Measured(evidence_of(example, answer[0], mask), answer[0], mask)


def evidence_of(example: Example, explanation: Explanation, mask: Array) -> Evidence:
    """How a map's positive values are shared out between the mask [h, w] and the rest."""
    positive = np.maximum(explanation.map.astype(np.float64), 0)
    total = float(positive.sum())
    inside = float(positive[mask].sum()) / total if total else None
    return Evidence(example.id, explanation.target_name, inside, float(mask.mean()))


def given_mask(masks: Path, example: Example, explanation: Explanation) -> Array:
    """The mask of the picture's file as the model saw it, [h, w] bool. Raises ValueError for one of another size."""
    with Image.open(mask_path(masks, example)) as picture:
        white = np.asarray(picture.convert("L")) > 127
    region = explanation.region
    if white.shape != (region.image_height, region.image_width):
        sizes = f"{white.shape[1]}x{white.shape[0]}, and the picture {region.image_width}x{region.image_height}"
        raise ValueError(f"{mask_path(masks, example)} is {sizes}")
    return seen(white, region, explanation.map.shape)


def seen(mask: Array, region: Region, size: Sequence[int]) -> Array:
    """The part of a mask of the whole picture that the model saw, in the size of its input; outside of it False."""
    y = np.floor(region.y + (np.arange(size[0]) + 0.5) * region.height / size[0]).astype(int)
    x = np.floor(region.x + (np.arange(size[1]) + 0.5) * region.width / size[1]).astype(int)
    rows, columns = (y >= 0) & (y < mask.shape[0]), (x >= 0) & (x < mask.shape[1])
    found: Array = mask[np.ix_(y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1))]
    return np.asarray(found & rows[:, None] & columns[None])


def mask_path(masks: Path, example: Example) -> Path:
    """Where the mask of a picture lies: at the picture's own path from there, as PNG."""
    return (masks / example.id).with_suffix(".png")


def _check(dataset: Dataset, masks: Path) -> None:
    missing = [mask_path(masks, each) for each in dataset if not mask_path(masks, each).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(dataset)} pictures have no mask, the first of them {missing[0]}: a mask is a PNG "
            "at the picture's own path in the folder of masks, white where the object is"
        )


def _own_mask(explanation: Explanation) -> Array:
    if explanation.segment is None:
        raise ValueError("no object was cut out: the map points to nothing")
    return explanation.segment.mask
