"""From a request to a Task: everything that is wrong with it is told at once, before anything reaches a device."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import grpc

from gradserve.v1 import attack_pb2, explain_pb2, influence_pb2, predict_pb2
from gradserve.v1 import common_pb2 as pb

from ..config import LimitSettings
from ..engine.batch_limits import passes_cost
from ..engine.job import Priority
from ..methods.explain import METHODS, Call
from ..methods.targets import Target
from ..models.card import ModelCard, Precision, Rpc
from ..models.served import ServedModels
from ..pool.wire import Task
from . import images
from .errors import RequestError, Violations, model_unavailable, unknown_model
from .fields import choice, parse_fields
from .targets import cam_layer, targets_of

REPLY_MARGIN_SECONDS = 0.02  # time reserved for the reply, of the request's own time budget
# Time reserved for the reply: a share of the gRPC deadline, at most so many seconds.
REPLY_SHARE, MAX_REPLY_SECONDS = 0.1, 0.25
MOST_METHODS, MOST_CLASSES = 16, 1000
MOST_ROWS, MOST_ROWS_ALL = 4096, 16384  # of one method and target, and of a request
MAX_MAP_BYTES = 60 << 20  # bytes of maps in one reply
MAP_BYTES = {explain_pb2.MAP_FORMAT_FLOAT16: 2, explain_pb2.MAP_FORMAT_PNG: 1}  # a pixel; otherwise 4
OVERLAY_BYTES = 3

PRIORITIES: Mapping[int, Priority] = {0: "interactive", 1: "interactive", 2: "batch"}
PRECISIONS: Mapping[int, Literal["auto"] | Precision] = {0: "auto", 1: "exact", 2: "balanced", 3: "fast"}
PREPROCESSES: Mapping[int, pb.Preprocess] = {
    pb.PREPROCESS_UNSPECIFIED: pb.PREPROCESS_MODEL_DEFAULT,
    pb.PREPROCESS_MODEL_DEFAULT: pb.PREPROCESS_MODEL_DEFAULT,
    pb.PREPROCESS_WHOLE_IMAGE: pb.PREPROCESS_WHOLE_IMAGE,
    pb.PREPROCESS_AS_IS: pb.PREPROCESS_AS_IS,
}

Request = (
    predict_pb2.PredictRequest
    | explain_pb2.ExplainRequest
    | attack_pb2.AttackRequest
    | influence_pb2.InfluenceRequest
    | influence_pb2.EmbedRequest
)


@dataclass(frozen=True, slots=True)
class Bound:
    """A checked request: the task for the pool and what its reply will need."""

    task: Task
    card: ModelCard
    region: pb.Region
    preprocess: pb.Preprocess
    methods: tuple[str, ...] = ()  # for the log
    calls: tuple[Call, ...] = ()
    top_k: int = 0
    quick_decode: bool = False


@dataclass(frozen=True, slots=True)
class CallContext:
    """What surrounds a request: its id, when it came, the seconds its call has left, the models and the limits."""

    request_id: str
    arrived: float
    remaining: float | None
    cards: ServedModels
    limits: LimitSettings


def bind_predict(request: predict_pb2.PredictRequest, at: CallContext) -> Bound:
    """Raises RequestError."""
    card, violations = model_of(request.model, at.cards)
    top_k = request.top_k if request.HasField("top_k") else 5
    if not 1 <= top_k <= MOST_CLASSES:
        violations.add("top_k", f"must be from 1 to {MOST_CLASSES}, was {top_k}", for_every_model=True)
    common = checked_options("predict", request, card, at, violations)
    violations.check()
    task, region, how = task_of("predict", card, common, {}, card.gflop, at)
    return Bound(task, card, region, how, top_k=top_k, quick_decode=common.quick_decode)


def bind_explain(request: explain_pb2.ExplainRequest, at: CallContext) -> Bound:
    """Raises RequestError."""
    card, violations = model_of(request.model, at.cards)
    common = checked_options("explain", request, card, at, violations)
    size = (card.height, card.width) if common.image is None else (common.image[0].shape[0], common.image[0].shape[1])
    own_size = size == (card.height, card.width)
    targets = targets_of(request.targets, card, own_size, violations)
    calls = _calls(request, card, targets, size, violations)
    choice(explain_pb2.MapFormat.DESCRIPTOR, request.format, "format", violations)
    _check_reply(request, len(calls), size, violations)
    check_applies(calls, card, violations)
    rows = sum(METHODS[call.method].rows(call.parameters, size) for call in calls)
    if rows > MOST_ROWS_ALL and not violations.found:
        violations.add("methods", f"with all targets ask for {rows} passes; at most {MOST_ROWS_ALL} are allowed")
    violations.check()
    cost = passes_cost(card.gflop, "image") * rows * size[0] * size[1] / (card.height * card.width)
    task, region, how = task_of("explain", card, common, {"calls": calls}, cost, at)
    methods = tuple(dict.fromkeys(call.method for call in calls))
    return Bound(task, card, region, how, methods, calls, quick_decode=common.quick_decode)


def model_card(name: str, cards: ServedModels) -> ModelCard:
    """The card of that name, or of the default model. Raises NOT_FOUND, FAILED_PRECONDITION if it was not loaded."""
    check_loaded(name or cards.default, cards, is_default=not name)
    card = cards.get(name or cards.default)
    if card is None:
        raise unknown_model(name, cards, cards.unavailable)
    return card


def model_of(name: str, cards: ServedModels) -> tuple[ModelCard, Violations]:
    """The card of that name, or of the default model, and what is to collect the violations of its request.

    Where there is none another model's card stands in for it, until the violations are checked.
    """
    try:
        return model_card(name, cards), Violations()
    except RequestError as error:
        return next(iter(cards.values())), Violations(no_model=error)


def check_loaded(name: str, cards: ServedModels, *, is_default: bool = False) -> None:
    """Raises FAILED_PRECONDITION for a model of the configuration that could not be loaded."""
    if reason := cards.unavailable.get(name):
        raise model_unavailable(name, reason, cards if is_default else ())


@dataclass(frozen=True, slots=True)
class CheckedOptions:
    """What every request carries, checked."""

    image: images.ModelInput | None
    preprocess: pb.Preprocess
    precision: Precision
    deadline: float
    options: pb.RequestOptions

    @property
    def quick_decode(self) -> bool:
        """Whether the picture was decoded at a fraction of its size."""
        return self.image is not None and self.image.quick_decode


def checked_options(
    rpc: Rpc, request: Request, card: ModelCard, at: CallContext, violations: Violations
) -> CheckedOptions:
    """Image, preprocessing, precision and deadline; faults become violations."""
    choice(pb.Preprocess.DESCRIPTOR, request.preprocess, "preprocess", violations)
    how = PREPROCESSES.get(request.preprocess, pb.PREPROCESS_MODEL_DEFAULT)
    quick = request.options.quick_decode
    image = images.decoded(request.image, card, how, at.limits, violations, quick=quick)
    return replace(check_options(rpc, request.options, card, at, violations), image=image, preprocess=how)


def check_options(
    rpc: Rpc, options: pb.RequestOptions, card: ModelCard, at: CallContext, violations: Violations
) -> CheckedOptions:
    """Precision and deadline alone, without a picture."""
    choice(pb.Priority.DESCRIPTOR, options.priority, "options.priority", violations)
    precision = _precision(options.precision, rpc, card, violations)
    left = at.remaining
    budget = None if left is None else left - min(MAX_REPLY_SECONDS, max(REPLY_MARGIN_SECONDS, REPLY_SHARE * left))
    if options.HasField("time_budget"):
        asked = options.time_budget.seconds + options.time_budget.nanos / 1e9
        if asked <= 0:
            violations.add("options.time_budget", f"must be above 0 s, was {asked:g} s", for_every_model=True)
        budget = asked - REPLY_MARGIN_SECONDS if budget is None else min(budget, asked - REPLY_MARGIN_SECONDS)
    deadline = float("inf") if budget is None else at.arrived + budget
    return CheckedOptions(None, pb.PREPROCESS_WHOLE_IMAGE, precision, deadline, options)


def _precision(number: int, rpc: Rpc, card: ModelCard, violations: Violations) -> Precision:
    choice(pb.Precision.DESCRIPTOR, number, "options.precision", violations)
    precision = PRECISIONS.get(number, "auto")
    if precision != "auto" and precision not in card.precisions:
        loaded = ", ".join(["AUTO", *(p.upper() for p in card.precisions)])
        reason = card.absent.get(precision, "")
        because = f": {reason}" if reason else ""
        violations.not_applicable(f"{card.name} is not loaded in {precision.upper()}{because}; there are: {loaded}")
    return card.auto.get(rpc, "exact") if precision == "auto" else precision


def task_of(
    rpc: str, card: ModelCard, common: CheckedOptions, arguments: Mapping[str, Any], cost: float, at: CallContext
) -> tuple[Task, pb.Region, pb.Preprocess]:
    """The task of a checked request. Raises RequestError if its time is up already."""
    assert common.image is not None, "violations were checked"
    pixels, region, _ = common.image
    options = common.options
    task = Task(
        id=at.request_id,
        rpc=rpc,
        model=card.name,
        image=pixels,
        arguments=arguments,
        precision=common.precision,
        priority=PRIORITIES[options.priority],
        seed=options.seed if options.HasField("seed") else 0,
        arrived=at.arrived,
        deadline=common.deadline,
        allow_partial=options.allow_partial,
        cost=cost,
        alone=options.alone,
    )
    if time.monotonic() >= common.deadline:
        text = "the time budget ran out before the work began; allow more time"
        raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "TIME_UP", text)
    return task, region, common.preprocess


def _calls(
    request: explain_pb2.ExplainRequest,
    card: ModelCard,
    targets: list[Target],
    size: tuple[int, int],
    violations: Violations,
) -> tuple[Call, ...]:
    """Methods outermost; each with its parameters resolved for each target."""
    if not 1 <= len(request.methods) <= MOST_METHODS:
        violations.add("methods", f"must be 1 to {MOST_METHODS}, were {len(request.methods)}", for_every_model=True)
        return ()
    calls: list[Call] = []
    for i, message in enumerate(request.methods):
        calls += calls_of(message, f"methods[{i}]", card, targets, size, violations)
    return tuple(calls)


def calls_of(
    message: explain_pb2.ExplainMethod,
    path: str,
    card: ModelCard,
    targets: list[Target],
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
    rows = METHODS[name].rows(parameters, size)
    if rows > MOST_ROWS:
        violations.add(path, f"asks for {rows} passes on a {size[1]}x{size[0]} input; at most {MOST_ROWS} are allowed")
    calls = []
    for target in targets:
        resolved = dict(parameters)
        if "layer" in resolved:
            resolved["layer"] = cam_layer(resolved["layer"], target, card, path, violations)
        if resolved.get("log_prob") and target.layer:
            violations.add(f"{path}.log_prob", f"applies to class targets only, not to units of {target.layer}")
        calls.append(Call(name, resolved, target))
    return calls


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
    for text in refused:
        violations.not_applicable(text)
