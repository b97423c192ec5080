"""Embed: from its request to a task, from the outcome to its reply."""

from itertools import takewhile
from typing import Any

from gradserve.v1 import influence_pb2

from ...methods.embed import EmbedArguments, Embedded
from ...models.card import ModelCard
from ...models.taps import Side
from ...pool.wire import Outcome
from ..arguments.targets import has_channels, known_layer
from ..fields import choice
from ..reply import provenance, tensor
from ..request import Bound, CallContext, area, check_options, check_picture, model_of, task_of

POOLING = influence_pb2.DESCRIPTOR.enum_types_by_name["Pooling"]


def bind(request: influence_pb2.EmbedRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, at.cards)
    picture = check_picture(request, card, at, violations)
    options = check_options("embed", request.options, card, at, violations)
    pooling: Any = choice(POOLING, request.pooling, "pooling", violations) or "mean"
    layer, side = features(request.layer, card)
    card_layer = known_layer(layer, card, "layer", violations)
    if card_layer is not None:
        has_channels(card_layer, card, "layer", violations)
    violations.check()
    arguments = EmbedArguments(layer, side, pooling)
    task = task_of(options, card, picture.pixels, arguments, card.gflop * area(picture.pixels, card), at)
    return Bound(task, card, picture, ("embed",))


def reply(request: influence_pb2.EmbedRequest, bound: Bound, outcome: Outcome) -> influence_pb2.EmbedResponse:
    """The features."""
    arguments: EmbedArguments = bound.task.arguments
    embedded: Embedded = outcome.result
    return influence_pb2.EmbedResponse(
        features=tensor(embedded.values.astype("<f4")),
        layer=arguments.layer,
        is_input=arguments.side == "input",
        region=bound.picture.region,
        provenance=provenance(bound, outcome),
    )


def features(layer: str, card: ModelCard) -> tuple[str, Side]:
    """The name of a layer, and the side of it that is embedded: the output of the named one.

    Without a name it is the input of the layer that gives the logits, or, where there is none, the output of Grad-CAM's
    layer or of the last one.
    """
    if layer:
        return layer, "output"
    last = takewhile(lambda la: la.layout == "vector" and la.channels == card.outputs, reversed(card.layers))
    heads = [each.name for each in last]
    return (heads[-1], "input") if heads else (card.grad_cam_layer or card.layers[-1].name, "output")
