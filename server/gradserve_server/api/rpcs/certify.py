"""Certify: from its request to a task, from the outcome to its reply."""

from typing import Any

import numpy as np

from gradserve.v1 import certify_pb2

from ...methods.certify import Smoothed, SmoothingArguments, lower_bound
from ...methods.parameters import model_of as parameters_of
from ...models.card import ModelCard
from ...pool.wire import Outcome
from ..errors import Violations
from ..fields import check_values
from ..reply import provenance, scores
from ..request import Bound, CallContext, area, check_options, check_picture, model_of, task_of


def bind(request: certify_pb2.CertifyRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, at.cards)
    picture = check_picture(request, card, at, violations)
    options = check_options("certify", request.options, card, at, violations)
    arguments = _arguments(request, violations)
    if card.head == "multilabel":
        violations.not_applicable(
            f"Certify does not apply to {card.name}: it counts the most probable class, and the labels of its head "
            "multilabel do not exclude each other"
        )
    violations.check()
    rows = 1 + arguments.selection_samples + arguments.samples
    cost = card.gflop * rows * area(picture.pixels, card)
    return Bound(task_of(options, card, picture.pixels, arguments, cost, at), card, picture, ("certify",))


def _arguments(request: certify_pb2.CertifyRequest, violations: Violations) -> SmoothingArguments:
    """The noise of the request; the defaults, with violations, where something in it is wrong."""
    names = parameters_of(SmoothingArguments).model_fields
    values: dict[str, Any] = {name: getattr(request, name) for name in names if request.HasField(name)}
    return SmoothingArguments(**check_values(SmoothingArguments, values, violations) or {})


def reply(request: certify_pb2.CertifyRequest, bound: Bound, outcome: Outcome) -> certify_pb2.CertifyResponse:
    """The class, its counts and its radius."""
    arguments: SmoothingArguments = bound.task.arguments
    smoothed: Smoothed = outcome.result
    plain = int(smoothed.logits.argmax())
    seen = np.flatnonzero(smoothed.selection + smoothed.counts)
    order = seen[np.argsort(-smoothed.counts[seen], kind="stable")]
    (score,) = scores(smoothed.logits, [plain], bound.card)
    return certify_pb2.CertifyResponse(
        candidate=_count(smoothed.candidate, smoothed, bound.card),
        abstains=smoothed.abstains,
        lower_bound=smoothed.lower_bound,
        radius=smoothed.radius,
        plain=score,
        counts=[_count(int(index), smoothed, bound.card) for index in order],
        sigma=arguments.sigma,
        selection_samples=arguments.selection_samples,
        samples=arguments.samples,
        alpha=arguments.alpha,
        warnings=_warnings(smoothed, plain, bound),
        region=bound.picture.region,
        provenance=provenance(bound, outcome),
    )


def _count(index: int, smoothed: Smoothed, card: ModelCard) -> certify_pb2.ClassCount:
    counts = {"selection_count": int(smoothed.selection[index]), "count": int(smoothed.counts[index])}
    return certify_pb2.ClassCount(class_index=index, class_name=card.classes[index], **counts)


def _warnings(smoothed: Smoothed, plain: int, bound: Bound) -> list[str]:
    """What a careful reader should know."""
    warnings = []
    arguments: SmoothingArguments = bound.task.arguments
    best_bound = lower_bound(arguments.samples, arguments.samples, arguments.alpha)
    if best_bound <= 0.5:
        text = f"{arguments.samples} of the same class prove no more than a probability of {best_bound:.4f}"
        warnings.append(f"TOO_FEW_SAMPLES: it abstains whatever the picture, since at this alpha even {text}")
    if not smoothed.abstains and plain != smoothed.candidate:
        text = "the network without noise predicts another class; the radius is of the smoothed classifier alone"
        warnings.append(f"OTHER_CLASS: {text}")
    if bound.task.precision != "exact":
        text = f"is of the network as it computes in {bound.task.precision.upper()}"
        warnings.append(f"PRECISION: the radius {text}, in which the samples were counted")
    return warnings
