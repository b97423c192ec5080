"""Explain: from its request to a task, from the outcome to its reply. An attack's maps are explanations too."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import mul
from typing import Any

import numpy as np

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2

from ...engine.costs import passes_cost, rule_cost
from ...methods.explain import METHODS, Call, ExplainArguments, first_rows, relevance_of, rows_of
from ...methods.explain.superpixels import MAX_CUTS
from ...methods.regions import ScoredRegion
from ...methods.targets import AnyTarget, Target, layers_of
from ...models.card import ModelCard
from ...pool.wire import Outcome, Task
from ..arguments.regions import score_region
from ..arguments.targets import (
    MAX_TARGETS,
    RELEVANCE_NEEDS_LOGITS,
    not_leading_to_logits,
    reads_scores,
    targets_of,
)
from ..errors import Violations
from ..fields import choice, parse_fields
from ..maps.cam_layers import cam_layer
from ..maps.trust import claimed, judging_cost, learn, trial_cost, trust_rows
from ..pictures.images import ModelInput
from ..reply import provenance
from ..request import Bound, CallContext, area, check_options, check_picture, in_exact, model_of, task_of
from .explanation import cut_out, explanation, overlaid
from .sampling import until_stable_of

MAX_METHODS = 16
MAX_ROWS, MAX_REQUEST_ROWS = 4096, 16384  # The most rows of one method for one target, and of a request.
MAX_MAP_BYTES = 60 << 20  # The most bytes of maps in one reply.
# Bytes of a pixel; other formats have 4.
MAP_BYTES = {explain_pb2.MAP_FORMAT_FLOAT16: 2, explain_pb2.MAP_FORMAT_PNG: 1}
OVERLAY_BYTES = 3  # Bytes of a pixel.
# The most maps, and bytes of them, in a reply that is made in about the time of handing it to a thread.
MAX_SMALL_MAPS, MAX_SMALL_BYTES = 16, 256 << 10
MAX_SEGMENTS = 16  # The most maps of a request that are cut out.
SEGMENT_GFLOP = 5.0  # The work of cutting out one of them, in GFLOP of a worker.


def bind(request: explain_pb2.ExplainRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, at.cards, positions=True)
    picture = check_picture(request, card, at, violations)
    options = check_options("explain", request.options, card, at, violations)
    size = (picture.pixels.shape[0], picture.pixels.shape[1])
    own_size = size == (card.height, card.width)
    targets = targets_of(request.targets, card, own_size, at, violations)
    regions = regions_of(request.targets, "targets", card, picture, at, violations)
    calls = _calls(request, card, targets, regions, size, violations)
    choice(explain_pb2.MapFormat.DESCRIPTOR, request.format, "format", violations)
    _check_reply(request, len(calls), size, violations)
    _check_cuts(calls, violations)
    check_applies(calls, card, violations)
    rows = sum(_rows(calls, size, card))
    if not violations.invalid:
        check_passes(rows, "methods", "with all targets", violations)
    if any(map(relevance_of, calls)):
        options = in_exact(options, "lrp", violations)
    arguments = ExplainArguments(calls, until_stable_of(request, calls, violations))
    violations.check()
    arguments = replace(arguments, trust=request.trust or request.curves, curves=request.curves)
    check_passes(rows + trust_rows(arguments, card), "methods", "with all targets and their judgement", violations)
    violations.check()
    cost = cost_of(calls, card, picture.pixels) + judging_cost(arguments, card, area(picture.pixels, card))
    task = task_of(options, card, picture.pixels, arguments, cost, at)
    methods = tuple(dict.fromkeys(call.method for call in calls))
    small = _has_small_reply(request, len(calls), size)
    cuts = len(calls) * SEGMENT_GFLOP if request.segment else 0.0
    return Bound(task, card, picture, methods, small_reply=small, reply_gflop=cuts)


@contextmanager
def with_trial(request: Any, bound: Bound, fits: Callable[[Task], bool]) -> Iterator[Bound]:
    """An accepted request, with the trial of its methods on the model where one is wanted.

    So that a trial is never why a request is refused, it is left out where the request would ask for too many passes by
    it, or where `fits` says that the task with it would come too late. A time budget is for the request's own maps.
    """
    judged = isinstance(request, explain_pb2.ExplainRequest) and bound.task.arguments.trust
    if not judged or request.options.HasField("time_budget"):
        yield bound
        return
    task, card = bound.task, bound.card
    rows = sum(_rows(task.arguments.calls, (task.image.shape[0], task.image.shape[1]), card))

    def tried(arguments: ExplainArguments) -> Task:
        return replace(task, arguments=arguments, cost=task.cost + trial_cost(arguments, card))

    def has_room(arguments: ExplainArguments) -> bool:
        return rows + trust_rows(arguments, card) <= MAX_REQUEST_ROWS and fits(tried(arguments))

    with claimed(task.arguments, card, has_room) as arguments:
        yield replace(bound, task=tried(arguments))


def cost_of(calls: Sequence[Call], card: ModelCard, pixels: np.ndarray) -> float:
    """The cost in GFLOP of these maps of an image [H, W, 3]."""
    prices = [passes_cost(card.gflop, METHODS[call.method].wrt) * rule_cost(relevance_of(call)) for call in calls]
    rows = _rows(calls, (pixels.shape[0], pixels.shape[1]), card)
    cost = sum(map(mul, rows, prices)) + first_rows(calls) * passes_cost(card.gflop, "nothing")
    return float(cost * area(pixels, card))


def _calls(
    request: explain_pb2.ExplainRequest,
    card: ModelCard,
    targets: Sequence[AnyTarget],
    regions: Sequence[ScoredRegion | None],
    size: tuple[int, int],
    violations: Violations,
) -> tuple[Call, ...]:
    """Methods outermost; each with its parameters resolved for each target."""
    if not 1 <= len(request.methods) <= MAX_METHODS:
        violations.add("methods", f"must be 1 to {MAX_METHODS}, were {len(request.methods)}", for_every_model=True)
        return ()
    calls: list[Call] = []
    for i, message in enumerate(request.methods):
        made = calls_of(message, f"methods[{i}]", card, targets, size, violations)
        calls += (replace(call, region=region) for call, region in zip(made, regions, strict=False))
    return tuple(calls)


def regions_of(
    messages: Sequence[pb.Target],
    path: str,
    card: ModelCard,
    picture: ModelInput,
    at: CallContext,
    violations: Violations,
) -> list[ScoredRegion | None]:
    """The region of each target, None for those that read no scores of positions."""
    if not card.positions:
        return [None] * max(1, len(messages))
    if not messages:
        violations.add(path, f"must name a class and its region, since {card.name} gives a score for each position")
    return [
        score_region(message.region, card, picture, f"{path}[{i}].region", at, violations)
        if reads_scores(message)
        else None
        for i, message in enumerate(messages[:MAX_TARGETS])
    ]


def calls_of(
    message: explain_pb2.ExplainMethod,
    path: str,
    card: ModelCard,
    targets: Sequence[AnyTarget],
    size: tuple[int, int],
    violations: Violations,
) -> list[Call]:
    """One method with its parameters resolved for each target; nothing, with violations, where they are at fault."""
    name = message.WhichOneof("method")
    if name is None:
        violations.add(path, f"sets no method; there are: {', '.join(METHODS)}", for_every_model=True)
        return []
    path = f"{path}.{name}"
    parameters = parse_fields(METHODS[name].function, getattr(message, name), path, violations)
    if parameters is None:
        return []
    for parameter, text in METHODS[name].misfits(parameters, size).items():
        violations.add(f"{path}.{parameter}", text)
    calls = []
    for target in targets:
        resolved = dict(parameters)
        if METHODS[name].default_layer:
            resolved["layer"] = cam_layer(resolved["layer"], target, card, path, violations)
        switch = METHODS[name].class_targets_only
        if switch and resolved[switch] and not (isinstance(target, Target) and not target.layer):
            violations.add(f"{path}.{switch}", "applies to single classes as targets only")
        calls.append(Call(name, resolved, target))
    rows = max(_rows(calls, size, card), default=0)
    if rows > MAX_ROWS:
        violations.add(path, f"asks for {rows} passes on a {size[1]}x{size[0]} input; at most {MAX_ROWS} are allowed")
    return calls


def _rows(calls: Sequence[Call], size: tuple[int, int], card: ModelCard) -> list[int]:
    """Images that the network sees for each call; those for layers that the model lacks are refused and not counted."""

    def counts(call: Call) -> bool:
        return not METHODS[call.method].default_layer or card.layer(call.parameters["layer"]) is not None

    return [rows_of(call, size, card) for call in calls if counts(call)]


def check_passes(passes: int, path: str, what: str, violations: Violations) -> None:
    """A violation of the field `path` where `what`, all of a request, asks for more passes than one may."""
    if passes > MAX_REQUEST_ROWS:
        violations.add(path, f"{what} ask for {passes} passes; at most {MAX_REQUEST_ROWS} are allowed")


def _check_reply(request: explain_pb2.ExplainRequest, maps: int, size: tuple[int, int], violations: Violations) -> None:
    """Maps that no reply can carry are refused before they are computed."""
    pixel = MAP_BYTES.get(request.format, 4) + (OVERLAY_BYTES if request.overlay else 0)
    if maps * size[0] * size[1] * pixel > MAX_MAP_BYTES:
        limit = f"a reply carries {MAX_MAP_BYTES >> 20} MiB; ask for fewer at once, or as FLOAT16 or PNG"
        violations.add("methods", f"{maps} maps of {size[1]}x{size[0]} are too much: {limit}")
    if request.segment and maps > MAX_SEGMENTS:
        violations.add(
            "segment", f"at most {MAX_SEGMENTS} maps are cut out at once, these would be {maps}; leave it out"
        )


def _check_cuts(calls: Sequence[Call], violations: Violations) -> None:
    """A violation for many different ways to cut the picture into segments: a worker runs no pass while it cuts."""
    parameters = [call.parameters for call in calls if "segments" in call.parameters]
    cuts = {(each["segments"], each["compactness"]) for each in parameters}
    if len(cuts) > MAX_CUTS:
        limit = f"at most {MAX_CUTS} pairs of segments and compactness are allowed"
        violations.add("methods", f"cut the picture in {len(cuts)} different ways; {limit}", for_every_model=True)


def _has_small_reply(request: explain_pb2.ExplainRequest, maps: int, size: tuple[int, int]) -> bool:
    """Whether the reply has numbers alone, and few."""
    pictures = request.overlay or request.segment or request.format == explain_pb2.MAP_FORMAT_PNG
    return not pictures and maps <= MAX_SMALL_MAPS and maps * size[0] * size[1] * 4 <= MAX_SMALL_BYTES


def check_applies(calls: Sequence[Call], card: ModelCard, violations: Violations) -> None:
    """Notes the calls that are valid but do not apply to this model."""
    refusals = {call.method: METHODS[call.method].refuses(card) for call in calls}
    refused = [f"{method} does not apply to {card.name}: {why}" for method, why in refusals.items() if why]
    for call in calls:
        layer = card.layer(call.parameters.get("layer", ""))
        if layer is not None and not layer.is_map:
            why = f"{call.method} needs a layer with spatial extent, and {layer.name} of {card.name} has none"
            refused.append(f"{why}; name another, or leave layer out")
    if any(map(relevance_of, calls)):
        layers = [name for call in calls for name in layers_of(call.target)]
        others = not_leading_to_logits(layers, card)
        refused += [f"lrp does not apply to {name}: {RELEVANCE_NEEDS_LOGITS}" for name in others]
    own_input = any(rule is not None and rule.input != "same" for rule in map(relevance_of, calls))
    if own_input and card.input_rules_refused and not card.relevance_refused:
        refused.append(f"input_rule of lrp does not apply to {card.name}: {card.input_rules_refused}; leave it out")
    for text in refused:
        violations.not_applicable(text)


def reply(request: explain_pb2.ExplainRequest, bound: Bound, outcome: Outcome) -> explain_pb2.ExplainResponse:
    """One explanation for each call, in their order."""
    arguments: ExplainArguments = bound.task.arguments
    learn(arguments.calls, outcome.result, bound.card)
    explanations = []
    for call, answer in zip(arguments.calls, outcome.result, strict=True):
        message = explanation(call, answer, bound.card, request.format)
        if request.overlay:
            message.overlay = overlaid(bound.task.image, answer.values)
        if request.segment:
            cut_out(message, bound, answer.values)
        explanations.append(message)
    return explain_pb2.ExplainResponse(
        explanations=explanations, region=bound.picture.region, provenance=provenance(bound, outcome)
    )


def rows_by_method(bound: Bound, outcome: Outcome) -> Mapping[str, int]:
    """What each method took of the rows that were computed, for the metrics."""
    arguments: ExplainArguments = bound.task.arguments
    rows = dict.fromkeys(bound.methods, 0)
    for call, answer in zip(arguments.calls, outcome.result, strict=True):
        rows[call.method] += answer.done
    if not arguments.trust:
        return rows
    left = outcome.rows - sum(rows.values())  # Where time ran out these are fewer than were planned.
    return {**rows, "trust": max(0, min(trust_rows(arguments, bound.card), left))}
