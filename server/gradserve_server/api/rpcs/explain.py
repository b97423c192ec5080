"""Explain: from its request to a task, from the outcome to its reply. An attack's maps are explanations too."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import mul

import numpy as np
from PIL import Image

from gradserve.images import overlay
from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2

from ...engine.costs import passes_cost, rule_cost
from ...methods.explain import METHODS, Call, ExplainArguments, Explained, first_rows, relevance_of, rows_of
from ...methods.regions import ScoredRegion
from ...methods.targets import AnyTarget, Contrast, Target, layers_of
from ...models.card import ModelCard
from ...pool.wire import Outcome
from ..errors import Violations
from ..fields import choice, from_dict, parse_fields
from ..images import ModelInput, png
from ..regions import region_message, score_region
from ..reply import provenance, target_message, target_name, tensor
from ..request import Bound, CallContext, area, check_options, check_picture, in_exact, model_of, task_of
from ..targets import ASIDE, MAX_TARGETS, aside, cam_layer, reads_scores, targets_of
from .sampling import until_stable_of

MAX_METHODS = 16
MAX_ROWS, MAX_REQUEST_ROWS = 4096, 16384  # The most rows of one method for one target, and of a request.
MAX_MAP_BYTES = 60 << 20  # The most bytes of maps in one reply.
# Bytes of a pixel; other formats have 4.
MAP_BYTES = {explain_pb2.MAP_FORMAT_FLOAT16: 2, explain_pb2.MAP_FORMAT_PNG: 1}
OVERLAY_BYTES = 3  # Bytes of a pixel.
MIN_OVERLAY_SIDE = 224  # Pixels of the longer side. A smaller overlay is magnified by a whole number.
MAX_FLOAT16, MIN_FLOAT16 = float(np.finfo(np.float16).max), float(np.finfo(np.float16).tiny)
NO_CONTRAST = (
    "NO_CONTRAST: by this rule the relevance hardly depends on which class or unit it is of; a contrast, "
    "one class minus another, shows what speaks for the one and against the other"
)
LEAKY = frozenset(("LeakyReLU", "PReLU"))


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
    check_applies(calls, card, violations)
    rows = _rows(calls, size, card)
    if not violations.invalid:
        check_passes(sum(rows), "methods", "with all targets", violations)
    if any(map(relevance_of, calls)):
        options = in_exact(options, "lrp", violations)
    arguments = ExplainArguments(calls, until_stable_of(request, calls, violations))
    violations.check()
    task = task_of(options, card, picture.pixels, arguments, cost_of(calls, card, picture.pixels), at)
    methods = tuple(dict.fromkeys(call.method for call in calls))
    return Bound(task, card, picture, methods)


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


def check_applies(calls: Sequence[Call], card: ModelCard, violations: Violations) -> None:
    """What is valid but does not apply to this model is refused."""
    refusals = {call.method: METHODS[call.method].refuses(card) for call in calls}
    refused = [f"{method} does not apply to {card.name}: {why}" for method, why in refusals.items() if why]
    for call in calls:
        layer = card.layer(call.parameters.get("layer", ""))
        if layer is not None and not layer.is_map:
            why = f"{call.method} needs a layer with spatial extent, and {layer.name} of {card.name} has none"
            refused.append(f"{why}; name another, or leave layer out")
    if any(map(relevance_of, calls)):
        layers = [name for call in calls for name in layers_of(call.target)]
        refused += [f"lrp does not apply to {name}: {ASIDE}" for name in aside(layers, card)]
    own_input = any(rule is not None and rule.input != "same" for rule in map(relevance_of, calls))
    if own_input and card.input_rules_refused and not card.relevance_refused:
        refused.append(f"input_rule of lrp does not apply to {card.name}: {card.input_rules_refused}; leave it out")
    for text in refused:
        violations.not_applicable(text)


def reply(request: explain_pb2.ExplainRequest, bound: Bound, outcome: Outcome) -> explain_pb2.ExplainResponse:
    """One explanation for each call, in their order."""
    arguments: ExplainArguments = bound.task.arguments
    explanations = []
    for call, answer in zip(arguments.calls, outcome.result, strict=True):
        message = explanation(call, answer, bound.card, request.format)
        if request.overlay:
            message.overlay = overlaid(bound.task.image, answer.values)
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
    return rows


def explanation(call: Call, answer: Explained, card: ModelCard, form: explain_pb2.MapFormat) -> explain_pb2.Explanation:
    """One map with what it is of."""
    low, high = float(answer.values.min()), float(answer.values.max())
    target = target_message(answer.target)
    if call.region is not None:
        target.region.CopyFrom(region_message(call.region))
    reply = explain_pb2.Explanation(
        method_name=call.method,
        target=target,
        target_name=target_name(target, card),
        target_value=answer.target_value,
        low=low,
        high=high,
        asked=answer.asked,
        done=answer.done,
        completed_fraction=answer.done / answer.asked,
        warnings=warnings_of(call, answer, card),
    )
    from_dict(getattr(reply.method, call.method), call.parameters)
    getattr(reply.method, call.method).SetInParent()
    if form == explain_pb2.MAP_FORMAT_PNG:
        reply.png = png(levels(answer.values, low, high))
    else:
        half = form == explain_pb2.MAP_FORMAT_FLOAT16
        reply.raw.CopyFrom(tensor(answer.values.astype("<f2" if half else "<f4")))
        if half and max(abs(low), abs(high)) > MAX_FLOAT16:
            reply.warnings.append("FLOAT16_OVERFLOW: values beyond 65504 became infinite; ask for FLOAT32")
        if half and 0 < max(abs(low), abs(high)) < MIN_FLOAT16:
            reply.warnings.append("FLOAT16_UNDERFLOW: values below 6e-5 lose digits or become 0; ask for FLOAT32")
    if answer.coarse is not None:
        reply.coarse.CopyFrom(tensor(answer.coarse.astype("<f4")))
    if answer.completeness_gap is not None:
        reply.completeness_gap = answer.completeness_gap
    if answer.standard_error is not None:
        reply.standard_error = answer.standard_error
    return reply


def levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The values as uint8, the lowest 0 and the highest 255; zeros where all are the same."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    scaled = values - low
    scaled /= high - low
    scaled *= 255
    return np.rint(scaled, out=scaled).astype(np.uint8)


def warnings_of(call: Call, answer: Explained, card: ModelCard) -> list[str]:
    """What a careful reader should know about a map."""
    return [*answer.warnings, *method_warnings(call, card), *_target_warnings(call, card)]


def method_warnings(call: Call, card: ModelCard) -> list[str]:
    """Notes on the model that concern the method: guided only in part, or a default layer that is not the usual one."""
    method = METHODS[call.method]
    notes = [note for note in card.notes if note.startswith("PARTIALLY_GUIDED") and method.guided]
    layer = call.parameters.get("layer")
    if method.default_layer and layer in (None, card.grad_cam_layer):
        notes += [note for note in card.notes if note.startswith("GRAD_CAM")]
    return notes


def _target_warnings(call: Call, card: ModelCard) -> list[str]:
    """That relevance of z+ and gamma needs a contrast, on networks whose activations are ReLUs, leaky ones included."""
    rule = relevance_of(call)
    rectified = card.relus > 0 or LEAKY & set(card.other_activations)
    vague = rule is not None and rule.convolution != "epsilon" and rectified
    return [NO_CONTRAST] if vague and not isinstance(call.target, Contrast) else []


def overlaid(image: np.ndarray, values: np.ndarray) -> bytes:
    """PNG of the map over what the model saw."""
    pixels = image if image.dtype == np.uint8 else (image * 255).round().astype(np.uint8)
    height, width = values.shape
    factor = max(1, round(MIN_OVERLAY_SIDE / max(height, width)))
    photo = Image.fromarray(pixels).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    picture = overlay(photo, values, (0, 0, width * factor, height * factor))
    return png(np.asarray(picture))
