"""Inspect: from its request to a task, from the outcome to its reply."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import inspect_pb2

from ...methods.inspect import InspectArguments, ViewArguments
from ...models.card import ModelCard
from ...pool.wire import Outcome
from ..arguments.batches import batch_of, read_pictures
from ..errors import Violations
from ..fields import choice
from ..pictures.images import ModelInput
from ..reply import provenance
from ..request import (
    PREPROCESSES,
    Bound,
    CallContext,
    CheckedOptions,
    area,
    check_options,
    in_exact,
    model_of,
    read_picture,
    task_of,
)
from . import inspect_replies, inspect_views

MAX_IMAGES = 512
VIEWS = [field.name for field in inspect_pb2.InspectRequest.DESCRIPTOR.oneofs_by_name["view"].fields]


def bind(request: inspect_pb2.InspectRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, at.cards, positions=True)
    options = check_options("inspect", request.options, card, at, violations)
    options = in_exact(options, "Inspect", violations)
    view = request.WhichOneof("view")
    if view is None:
        violations.add("view", f"must be one of {', '.join(VIEWS)}, was not set", for_every_model=True)
        violations.check()
    message, binder = getattr(request, view or VIEWS[0]), _BINDERS[view or VIEWS[0]]
    return binder(message, options, card, at, violations)


def reply(request: inspect_pb2.InspectRequest, bound: Bound, outcome: Outcome) -> inspect_pb2.InspectResponse:
    """The view that was asked for."""
    message = inspect_pb2.InspectResponse(provenance=provenance(bound, outcome))
    arguments: InspectArguments = bound.task.arguments
    inspect_replies.fill(message, request, arguments.view, bound, outcome.result)
    return message


Binder = Callable[[Any, CheckedOptions, ModelCard, CallContext, Violations], Bound]


def _bound(
    view: str,
    arguments: ViewArguments | None,
    pictures: list[ModelInput],
    pixels: np.ndarray,
    cost: float,
    options: CheckedOptions,
    card: ModelCard,
    at: CallContext,
    violations: Violations,
) -> Bound:
    """The task of a view that was checked."""
    violations.check()
    assert arguments is not None, "only a violation leaves them out"
    early = view == "receptive_field"  # How large the pictures must become is not known before.
    task = task_of(options, card, pixels, InspectArguments(arguments), cost, at, may_end_early=early)
    return Bound(task, card, pictures[0], (view,))


def _without_picture(card: ModelCard) -> ModelInput:
    """Takes the place of a picture where a view takes none; of the model's own size, and black."""
    return ModelInput(np.zeros((card.height, card.width, 3), np.uint8), pb.Region(), preprocess=0)  # type: ignore[arg-type]


def _weights(
    message: inspect_pb2.WeightsView, options: CheckedOptions, card: ModelCard, at: CallContext, violations: Violations
) -> Bound:
    arguments = inspect_views.weights(message, card, violations)
    nothing = _without_picture(card)
    return _bound("weights", arguments, [nothing], nothing.pixels, 0.0, options, card, at, violations)


def _activations(
    message: inspect_pb2.ActivationsView,
    options: CheckedOptions,
    card: ModelCard,
    at: CallContext,
    violations: Violations,
) -> Bound:
    how = _preprocess(message.preprocess, "activations.preprocess", violations)
    quick = options.options.quick_decode
    picture = read_picture(message.image, how, card, at, violations, "activations.image", quick=quick)
    arguments = inspect_views.activations(message, card, picture.pixels, violations)
    cost = card.gflop * area(picture.pixels, card)
    return _bound("activations", arguments, [picture], picture.pixels, cost, options, card, at, violations)


def _table(
    message: inspect_pb2.TableView, options: CheckedOptions, card: ModelCard, at: CallContext, violations: Violations
) -> Bound:
    how = _preprocess(message.preprocess, "table.preprocess", violations)
    pictures, batch = [_without_picture(card)], np.zeros((1, card.height, card.width, 3), np.uint8)
    if message.images:
        quick = options.options.quick_decode
        pictures = read_pictures(message.images, "table.images", MAX_IMAGES, how, card, at, violations, quick=quick)
        batch = batch_of(pictures, "table.images", violations)
    arguments = inspect_views.table(message, card, violations)
    cost = len(message.images) * inspect_views.row_cost(arguments, card) * area(batch[0], card)
    return _bound("table", arguments, pictures, batch, cost, options, card, at, violations)


def _receptive_field(
    message: inspect_pb2.ReceptiveFieldView,
    options: CheckedOptions,
    card: ModelCard,
    at: CallContext,
    violations: Violations,
) -> Bound:
    arguments = inspect_views.receptive_field(message, card, at.limits, violations)
    nothing = _without_picture(card)
    cost = 0.0 if arguments is None else inspect_views.field_cost(arguments, card)
    return _bound("receptive_field", arguments, [nothing], nothing.pixels, cost, options, card, at, violations)


def _preprocess(number: pb.Preprocess, path: str, violations: Violations) -> pb.Preprocess:
    choice(pb.Preprocess.DESCRIPTOR, number, path, violations)
    return PREPROCESSES.get(number, pb.PREPROCESS_MODEL_DEFAULT)


_BINDERS: Mapping[str, Binder] = {
    "weights": _weights,
    "activations": _activations,
    "table": _table,
    "receptive_field": _receptive_field,
}
