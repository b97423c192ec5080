"""Predict: from its request to a task, from the outcome to its reply."""

from gradserve.v1 import predict_pb2

from ...methods.predict import Predicted
from ...pool.wire import Outcome
from ..reply import best, provenance, scores
from ..request import Bound, CallContext, area, check_options, check_picture, model_of, task_of

DEFAULT_TOP_K, MAX_TOP_K = 5, 1000  # The numbers of classes in a reply.
MAX_SMALL_TOP_K = 50  # The most classes of which a reply is made in some microseconds.


def bind(request: predict_pb2.PredictRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, at.cards)
    if not 1 <= top_k_of(request) <= MAX_TOP_K:
        violations.add("top_k", f"must be from 1 to {MAX_TOP_K}, was {top_k_of(request)}", for_every_model=True)
    picture = check_picture(request, card, at, violations)
    options = check_options("predict", request.options, card, at, violations)
    violations.check()
    task = task_of(options, card, picture.pixels, None, card.gflop * area(picture.pixels, card), at)
    return Bound(task, card, picture, small_reply=top_k_of(request) <= MAX_SMALL_TOP_K)


def reply(request: predict_pb2.PredictRequest, bound: Bound, outcome: Outcome) -> predict_pb2.PredictResponse:
    """The best classes with probabilities and logits."""
    predicted: Predicted = outcome.result
    top = scores(predicted.logits, best(predicted.logits, top_k_of(request)), bound.card)
    return predict_pb2.PredictResponse(top=top, region=bound.picture.region, provenance=provenance(bound, outcome))


def top_k_of(request: predict_pb2.PredictRequest) -> int:
    """How many classes are asked for."""
    return request.top_k if request.HasField("top_k") else DEFAULT_TOP_K
