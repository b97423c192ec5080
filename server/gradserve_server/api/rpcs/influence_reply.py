"""From an outcome to an InfluenceResponse, a SuspectsResponse and an EmbedResponse. Everything here runs in threads."""

import numpy as np

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import influence_pb2

from ... import __version__
from ...methods.influence import Influenced, opened
from ...methods.influence.index import Index, extremes
from ...models.card import ModelCard
from ...pool.wire import Outcome
from ..fields import enum_value
from ..reply import PRECISION_NUMBERS, provenance, tensor
from ..request import Bound
from .influence import GOAL

FLOATS = ("loss", "self_influence", "parameter_change", "disagreement", "suspicion")


def influence_reply(
    request: influence_pb2.InfluenceRequest, bound: Bound, outcome: Outcome
) -> influence_pb2.InfluenceResponse:
    """The examples with their predicted changes."""
    found: Influenced = outcome.result
    index, arguments = opened(bound.card.index), bound.task.arguments
    manifest = index.manifest
    similar = arguments["method"] == "neighbours"
    thumbnails = not request.HasField("thumbnails") or request.thumbnails
    reply = influence_pb2.InfluenceResponse(
        what_if=found.what_if,
        label=found.label,
        label_name=bound.card.classes[found.label],
        probability=found.probability,
        value=found.value,
        goal=enum_value(GOAL, arguments["goal"]),
        method_name=arguments["method"],
        examples=len(index),
        noise_floor=0.0 if similar else found.floor,
        coverage=coverage(index, arguments["method"]),
        region=bound.region,
        provenance=provenance(bound, outcome),
    )
    method = getattr(reply.method, arguments["method"])
    method.SetInParent()
    if arguments["method"] == "last_layer":
        method.newton = arguments["newton"]
    rows = [(reply.helpful, row) for row in found.helpful] + [(reply.harmful, row) for row in found.harmful]
    for i, (examples, row) in enumerate(rows):
        example = training_example(index, bound.card, int(row), thumbnail=thumbnails)
        if similar:
            example.similarity = float(found.scores[i])
        else:
            example.change = float(found.scores[i])
        if found.corrected is not None:
            example.newton_change = float(found.corrected[i])
        examples.append(example)
    reply.provenance.warnings.extend(() if similar else manifest.warnings)
    return reply


def coverage(index: Index, method: str) -> float:
    """Share of the parameters that influence passes through."""
    shares = {"projected": index.manifest.coverage, "last_layer": index.manifest.head_coverage}
    return shares.get(method, 0.0)


def suspects_reply(
    request: influence_pb2.SuspectsRequest, card: ModelCard, index: Index, order: str, top: int, request_id: str
) -> influence_pb2.SuspectsResponse:
    """The first examples in that order."""
    rows, _ = extremes(np.array(index.columns[order]), top)
    thumbnails = not request.HasField("thumbnails") or request.thumbnails
    return influence_pb2.SuspectsResponse(
        examples=[training_example(index, card, int(row), thumbnail=thumbnails) for row in rows],
        total=len(index),
        provenance=pb.Provenance(
            model=card.name,
            weights_digest=card.digest,
            precision=PRECISION_NUMBERS["exact"],
            server_version=__version__,
            warnings=index.manifest.warnings,
            request_id=request_id,
        ),
    )


def embed_reply(bound: Bound, outcome: Outcome) -> influence_pb2.EmbedResponse:
    """The features."""
    return influence_pb2.EmbedResponse(
        features=tensor(outcome.result.values.astype("<f4")),
        layer=bound.task.arguments["layer"],
        is_input=bound.task.arguments["side"] == "input",
        region=bound.region,
        provenance=provenance(bound, outcome),
    )


def training_example(index: Index, card: ModelCard, row: int, *, thumbnail: bool) -> influence_pb2.TrainingExample:
    """What the index knows of a row."""
    record = index.columns[row]
    label, predicted = int(record["label"]), int(record["predicted"])
    return influence_pb2.TrainingExample(
        row=row,
        name=index.name(row),
        label=label,
        label_name=card.classes[label],
        predicted=predicted,
        predicted_name=card.classes[predicted],
        thumbnail=index.thumbnail(row) if thumbnail else b"",
        **{name: float(record[name]) for name in FLOATS},
    )
