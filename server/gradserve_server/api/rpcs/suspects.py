"""Suspects: from its request to rows of the index, which has all that the reply says, so that no task is needed."""

from dataclasses import dataclass

import numpy as np

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import influence_pb2

from ... import __version__
from ...methods.influence.index import Index, extremes
from ...models.card import ModelCard
from ...models.served import ServedModels
from ..fields import choice
from ..reply import PRECISION_NUMBERS
from ..request import model_of
from .influence import index_of, top_of, training_example

DEFAULT_TOP, MAX_TOP = 20, 1000  # The numbers of examples in a reply.
ORDER = influence_pb2.DESCRIPTOR.enum_types_by_name["SuspectOrder"]


@dataclass(frozen=True, slots=True)
class Listing:
    """A checked request: how many examples of an index, by which of its columns."""

    card: ModelCard
    index: Index
    column: str
    top: int


def bind(request: influence_pb2.SuspectsRequest, cards: ServedModels) -> Listing:
    """Checks the request, and finds the rows of the index to list. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, cards)
    top = top_of(request, DEFAULT_TOP, MAX_TOP, violations)
    order = choice(ORDER, request.order, "order", violations) or "rank_sum"
    index = index_of(card, violations)
    violations.check()
    assert index is not None, "violations were checked"
    return Listing(card, index, "suspicion" if order == "rank_sum" else order, top)


def reply(request: influence_pb2.SuspectsRequest, listing: Listing, request_id: str) -> influence_pb2.SuspectsResponse:
    """The first examples in that order."""
    card, index = listing.card, listing.index
    rows, _ = extremes(np.array(index.columns[listing.column]), listing.top)
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
