"""Concepts and kept directions of the tests' server."""

from collections.abc import Sequence
from typing import Any

import grpc

from gradserve.v1 import common_pb2, concepts_pb2

CHANNELS, EXPIRES = 4, 2_000_000_000


def conceived(request: Any, classes: Sequence[str], provenance: Any) -> concepts_pb2.ConceptsResponse:
    """A direction of four channels; of the classes the first is for, the last against, others are insignificant."""
    rows = []
    verdicts = [concepts_pb2.CONCEPT_VERDICT_FOR, concepts_pb2.CONCEPT_VERDICT_AGAINST]
    for i, name in enumerate(classes):
        z = 9.0 if i == 0 else -9.0 if i == len(classes) - 1 else 0.5
        verdict = verdicts[z < 0] if abs(z) > 5 else concepts_pb2.CONCEPT_VERDICT_INSIGNIFICANT
        row = concepts_pb2.ClassSensitivity(
            target={"class_index": i}, name=name, derivative=1.0 - i, z=z, rank=i + 1, verdict=verdict
        )
        rows.append(row)
    if request.classes:
        row = concepts_pb2.ClassSensitivity(target=request.classes[0], name="asked", derivative=0.5, z=9.0, verdict=2)
        rows = [row]
    reply = concepts_pb2.ConceptsResponse(
        direction={"layer": request.layer or "last", "vector": [0.5] * CHANNELS, "name": request.keep_as},
        accuracy=0.75,
        classes=rows,
        z_threshold=5.0,
        random_directions=request.random_directions or 20,
        by_weights=not request.class_images,
        warnings=["FEW_PICTURES: made up"],
        provenance=provenance,
    )
    if request.keep_as:
        reply.expires.seconds = EXPIRES
    return reply


class FakeDirections:
    """What DirectionService answers: two directions, until they are deleted."""

    def __init__(self) -> None:
        self.kept = ["dots", "stripes"]

    def listed(self) -> concepts_pb2.ListDirectionsResponse:
        directions = []
        for name in self.kept:
            each = concepts_pb2.KeptDirection(name=name, model="tiny", weights_digest="ab", layer="last", channels=4)
            each.expires.seconds = EXPIRES
            directions.append(each)
        return concepts_pb2.ListDirectionsResponse(directions=directions)

    def delete(self, name: str, context: Any) -> concepts_pb2.DeleteDirectionResponse:
        if name not in self.kept:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no direction {name!r}")
        self.kept.remove(name)
        return concepts_pb2.DeleteDirectionResponse()


def direction_of(request: Any) -> common_pb2.Direction:
    """The direction that a request of Explain, Differentiate or Maximize has as its first target."""
    if hasattr(request, "targets"):
        return request.targets[0].direction
    return request.goals[0].summands[0].direction
