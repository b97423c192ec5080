"""Differentiate: from its request to a task, from the outcome to its reply."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import differentiate_pb2

from ...engine.costs import passes_cost, rule_cost
from ...engine.query import Wrt
from ...methods.differentiate import DifferentiateArguments, Differentiated
from ...methods.goals import Goal, Summand, targets_in
from ...methods.targets import Target, look_up_rows
from ...models.card import Layer, ModelCard
from ...models.rules import CONVOLUTION_RULES, Relevance, ReLURule, Rule
from ...pool.wire import Outcome
from ..arguments.batches import batch_of, read_pictures
from ..arguments.targets import RELEVANCE_NEEDS_LOGITS, has_channels, known_layer, not_leading_to_logits
from ..errors import Violations
from ..fields import choice
from ..reply import fill_tensor, provenance
from ..request import PREPROCESSES, Bound, CallContext, area, check_options, in_exact, model_of, task_of
from .goals import goal_of

MAX_IMAGES = 256
MAX_GRADIENT_BYTES = 60 << 20  # The most bytes of gradients in one reply.
RULE, FORMAT = (differentiate_pb2.DESCRIPTOR.enum_types_by_name[name] for name in ("BackwardRule", "GradientFormat"))
NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PREDICTED: Goal = (Summand(target=Target(rank=1)),)


def bind(request: differentiate_pb2.DifferentiateRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, at.cards)
    choice(pb.Preprocess.DESCRIPTOR, request.preprocess, "preprocess", violations)
    how = PREPROCESSES.get(request.preprocess or pb.PREPROCESS_AS_IS, pb.PREPROCESS_AS_IS)
    quick = request.options.quick_decode
    pictures = read_pictures(request.images, "images", MAX_IMAGES, how, card, at, violations, quick=quick)
    options = check_options("differentiate", request.options, card, at, violations)
    batch = batch_of(pictures, "images", violations)
    name = choice(RULE, request.rule, "rule", violations) or "plain"
    rule = _rule(name)
    if isinstance(rule, Relevance):
        options = in_exact(options, f"the rule {name.upper()}", violations)
    form: Any = choice(FORMAT, request.format, "format", violations) or "float32"
    goals = _goals(request, batch.shape[1:3] == (card.height, card.width), card, at, violations)
    layer = _layer(request, goals, card, violations)
    _check_forward_only(request, violations)
    _check_reply(batch, layer, form, request.forward_only, violations)
    _check_applies(name, goals, card, violations)
    violations.check()
    wrt: Wrt = "nothing" if request.forward_only else "taps" if layer else "image"
    arguments = DifferentiateArguments(goals, wrt, layer.name if layer else "", rule, form)
    cost = _cost(batch, wrt, rule, goals, card)
    task = task_of(options, card, batch, arguments, cost, at)
    return Bound(task, card, pictures[0], (name,), regions=tuple(each.region for each in pictures))


def _goals(
    request: differentiate_pb2.DifferentiateRequest,
    own_size: bool,
    card: ModelCard,
    at: CallContext,
    violations: Violations,
) -> tuple[Goal, ...]:
    """One goal for all pictures, or one for each; nothing, with a violation, for another number of them."""
    if not request.goals:
        return (PREDICTED,)
    if len(request.goals) not in (1, len(request.images)):
        allowed = f"must be none, one, or one for each of the {len(request.images)} images"
        violations.add("goals", f"{allowed}, were {len(request.goals)}", for_every_model=True)
        return ()
    messages = enumerate(request.goals if at.decode else request.goals[:1])  # For its price one goal stands for all.
    return tuple(goal_of(each, card, f"goals[{i}]", own_size, at, violations) for i, each in messages)


def _layer(
    request: differentiate_pb2.DifferentiateRequest, goals: Sequence[Goal], card: ModelCard, violations: Violations
) -> Layer | None:
    """The layer to differentiate by; a violation where a goal does not depend on it."""
    layer = known_layer(request.layer, card, "layer", violations) if request.layer else None
    if layer is None or not has_channels(layer, card, "layer", violations):
        return None
    for i, goal in enumerate(goals):
        own = [name for summand in goal for name in summand.layers]
        later = [each for each in map(card.layer, own) if each is not None]
        reads_logits = any(not summand.layers for summand in goal)
        reached = [card.reaches(layer, each) or each.name == layer.name for each in later]
        if goal and not any(reached) and not (reads_logits and card.reaches(layer)):
            reads = ", ".join([*own, *(["the logits"] if reads_logits else [])])
            text = f"goals[{i}] reads {reads}, which {layer.name} does not reach, so that its gradient would be 0"
            violations.add("layer", f"{text}; name an earlier layer")
    return layer


def _check_forward_only(request: differentiate_pb2.DifferentiateRequest, violations: Violations) -> None:
    for field in ("rule", "layer", "format"):
        if request.forward_only and getattr(request, field):
            text = "says how a gradient is computed, and forward_only leaves it out; set one of both"
            violations.add(field, text, for_every_model=True)


def _check_reply(batch: np.ndarray, layer: Layer | None, form: str, forward_only: bool, violations: Violations) -> None:
    """Adds a violation for gradients that are too large for a reply, before they are computed."""
    numbers = batch.size if layer is None else len(batch) * layer.channels * max(1, layer.height * layer.width)
    size = numbers * NUMBER_BYTES.get(form, 4)
    if not forward_only and size > MAX_GRADIENT_BYTES:
        limit = f"a reply carries {MAX_GRADIENT_BYTES >> 20} MiB; send fewer at once, or ask for FLOAT16"
        violations.add("images", f"{len(batch)} gradients take {size / 2**20:.1f} MiB as {form.upper()}; {limit}")


def _rule(name: str) -> Rule:
    """The backward rule of that name, lrp_z_plus and so on for relevance."""
    kinds: Mapping[str, Rule] = {f"lrp_{kind}": Relevance(kind) for kind in CONVOLUTION_RULES}
    return kinds.get(name) or cast(ReLURule, name)


def _check_applies(name: str, goals: Sequence[Goal], card: ModelCard, violations: Violations) -> None:
    rule = _rule(name)
    if isinstance(rule, Relevance):
        read = [each for goal in goals for summand in goal for each in summand.layers]
        for layer in not_leading_to_logits(read, card):
            violations.not_applicable(f"the rule {name.upper()} does not apply to {layer}: {RELEVANCE_NEEDS_LOGITS}")
    refused = card.relevance_refused if isinstance(rule, Relevance) else card.rules_refused if rule != "plain" else ""
    why = card.no_gradient or refused
    if why:
        what = "Differentiate" if card.no_gradient else f"the rule {name.upper()}"
        violations.not_applicable(f"{what} does not apply to {card.name}: {why}")


def _cost(batch: np.ndarray, wrt: Wrt, rule: Rule, goals: Sequence[Goal], card: ModelCard) -> float:
    """The cost in GFLOP, with the forward passes that ranks and similarities need first."""
    first = look_up_rows(targets_in(goals), len(batch), resolve_ranks=False)
    return (len(batch) * passes_cost(card.gflop, wrt) * rule_cost(rule) + first * card.gflop) * area(batch[0], card)


def reply(
    request: differentiate_pb2.DifferentiateRequest, bound: Bound, outcome: Outcome
) -> differentiate_pb2.DifferentiateResponse:
    """Values, logits and gradients in the order of the pictures."""
    result: Differentiated = outcome.result
    message = differentiate_pb2.DifferentiateResponse(
        values=result.values.tolist(),
        scales=[] if result.scales is None else result.scales.tolist(),
        regions=bound.regions,
        provenance=provenance(bound, outcome),
    )
    if result.logits is not None:
        fill_tensor(message.logits, result.logits)
    if result.gradient is not None:
        fill_tensor(message.gradient, result.gradient)
    return message
