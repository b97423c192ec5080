"""Pure functions for Concepts and kept directions: arguments -> request message, reply -> result."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Unpack

import numpy as np

from gradserve.arguments import BatchLike, Layout, Options, PhotoOptions, TargetLike
from gradserve.messages import fields, inputs
from gradserve.messages.common import (
    PREPROCESS,
    check_names,
    choice,
    count,
    provenance_of,
    request_options,
    target_message,
)
from gradserve.parameters.common import Preprocess
from gradserve.results.concepts import ClassSensitivity, ConceptDirection, KeptDirection
from gradserve.v1 import concepts_pb2

_VERDICT = concepts_pb2.DESCRIPTOR.enum_types_by_name["ConceptVerdict"]


class ConceptsArguments(PhotoOptions, total=False):
    """What `concepts` takes besides the pictures of the concept and the negatives.

    classes: a class's index or name or a Rank, or a list of them; None for all. class_images: pictures at which the
    derivatives are taken; none at the last layer. random_directions: 20 to 500. keep_as: a name for the server to keep
    the direction by.
    """

    classes: TargetLike | list[Any] | None
    class_images: BatchLike
    layer: str
    random_directions: int
    keep_as: str


_OWN = ConceptsArguments.__annotations__.keys() | {"concept", "negatives", "timeout"}


def concepts_request(
    concept: BatchLike,
    negatives: BatchLike,
    *,
    classes: TargetLike | list[Any] | None = None,
    class_images: BatchLike = (),
    layer: str = "",
    random_directions: int | None = None,
    keep_as: str = "",
    model: str = "",
    preprocess: Preprocess = "model_default",
    layout: Layout = "HWC",
    **options: Unpack[Options],
) -> concepts_pb2.ConceptsRequest:
    """The arguments of Concepts as a message."""
    check_names("concepts", options, _OWN)
    several: Sequence[Any] = classes if isinstance(classes, list) else [] if classes is None else [classes]
    return concepts_pb2.ConceptsRequest(
        model=model,
        layer=layer,
        concept_images=[inputs.message(each, layout) for each in inputs.batch(concept)],
        negative_images=[inputs.message(each, layout) for each in inputs.batch(negatives)],
        classes=[target_message(each, layout) for each in several],
        class_images=[inputs.message(each, layout) for each in inputs.batch(class_images)],
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        random_directions=None if random_directions is None else count("random_directions", random_directions),
        keep_as=keep_as,
        options=request_options(**options),
    )


def concept_direction(reply: concepts_pb2.ConceptsResponse) -> ConceptDirection:
    """The reply of Concepts as a result."""
    return ConceptDirection(
        layer=reply.direction.layer,
        vector=np.array(reply.direction.vector, np.float32),
        accuracy=reply.accuracy,
        classes=tuple(map(_class, reply.classes)),
        z_threshold=reply.z_threshold,
        random_directions=reply.random_directions,
        by_weights=reply.by_weights,
        name=reply.direction.name,
        expires=_time(reply.expires) if reply.HasField("expires") else None,
        warnings=tuple(reply.warnings),
        provenance=provenance_of(reply.provenance),
    )


def _class(row: concepts_pb2.ClassSensitivity) -> ClassSensitivity:
    return ClassSensitivity(
        class_index=row.target.class_index if row.target.HasField("class_index") else None,
        name=row.name,
        derivative=row.derivative,
        z=row.z,
        rank=row.rank if row.HasField("rank") else None,
        verdict=fields.choice_name(_VERDICT, row.verdict),
    )


def kept_directions(reply: concepts_pb2.ListDirectionsResponse) -> list[KeptDirection]:
    """The reply of ListDirections."""
    return [
        KeptDirection(each.name, each.model, each.weights_digest, each.layer, each.channels, _time(each.expires))
        for each in reply.directions
    ]


def _time(stamp: Any) -> str:
    """A time as ISO 8601 writes it, in UTC and whole seconds."""
    return datetime.fromtimestamp(stamp.seconds, UTC).isoformat()
