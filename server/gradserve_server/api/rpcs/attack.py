"""Attack: from its request to a task, from the outcomes to its reply. The tasks that follow are in `certificate`."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradserve.v1 import attack_pb2, explain_pb2
from gradserve.v1 import common_pb2 as pb

from ...engine.costs import passes_cost
from ...methods.attack import (
    FROM_SCRATCH,
    METHODS,
    AttackArguments,
    Attacked,
    AttackMethod,
    Ball,
    InputTransform,
)
from ...methods.attack.defences import DEFENCES
from ...methods.attack.input_transform import eot
from ...methods.attack.oracle import TrajectoryPoint
from ...methods.explain import Call
from ...methods.regions import ScoredRegion
from ...models.card import ModelCard
from ...pool.wire import Outcome
from ..arguments.regions import attack_mask, averaged, score_region
from ..arguments.targets import reads_scores, target_of
from ..errors import Violations
from ..fields import choice, enum_value, from_dict, parse_fields
from ..pictures.images import ModelInput, png
from ..reply import provenance, scores
from ..request import Bound, CallContext, area, check_options, check_picture, model_of, task_of
from .attack_goals import LOSS, goal_spec_of
from .certificate import NORM, EncodedPicture, certified, magnified
from .explain import calls_of, check_applies
from .explanation import explanation
from .surrogates import check_gradient, check_surrogate

MAX_ROWS = 200_000
MAX_STEP_PIXELS = 256 * 224 * 224  # The most pixels in the pictures of one step.
CERTIFICATE_ROWS = 3  # The rows that every attack's cost includes for its certificate.
CANVAS_LEVEL = 128  # The grey level of an empty canvas, of 255.


def bind(request: attack_pb2.AttackRequest, at: CallContext) -> Bound:
    """Checks the request, and makes its task. Raises RequestError with all that is wrong."""
    card, violations = model_of(request.model, at.cards, positions=True)
    name = request.method.WhichOneof("method")
    if name is None:
        violations.add("method", f"sets no method; there are: {', '.join(METHODS)}", for_every_model=True)
    picture = _to_eight_bits(check_picture(_with_canvas(request, card), card, at, violations))
    options = check_options("attack", request.options, card, at, violations)
    size = picture.pixels.shape[:2]
    method = METHODS[name or "pgd"]
    parameters = (
        parse_fields(method.function, getattr(request.method, name), f"method.{name}", violations) if name else None
    )
    if parameters and "surrogate" in parameters:
        check_surrogate(parameters["surrogate"], card, size, at.cards, violations)
    if parameters is not None:
        check_gradient(name or "", parameters, card, at.cards, violations)
    goal_spec = goal_spec_of(request, name or "", card, violations)
    ball = _ball(request, name or "", card, size, violations)
    ball = replace(ball, mask=attack_mask(request, picture, at, violations))
    transform = _transform(request, name or "", violations)
    region = _region(request, card, picture, at, violations)
    maps = _maps(request, card, picture, region, at, violations)
    stop = request.first_success if request.HasField("first_success") else method.stops_early
    facts = goal_spec, ball, card.std, stop, request.adaptive, transform, averaged(region)
    arguments = AttackArguments(name or "", parameters or {}, *facts)
    forwards = _cost_in_forwards(arguments, method, size, violations) if parameters is not None else 0
    violations.check()
    cost = card.gflop * forwards * area(picture.pixels, card)
    # An ensemble ends with the stage that succeeds, a model may have fewer classes than are to be tried, and gradients
    # of a surrogate may be cheaper than those of the attacked model.
    may_end_early = stop or method.tries_classes or "surrogate" in arguments.parameters
    task = task_of(options, card, picture.pixels, arguments, cost, at, may_end_early=may_end_early)
    return Bound(task, card, picture, (arguments.method,), tuple(maps))


def _region(
    request: attack_pb2.AttackRequest, card: ModelCard, picture: ModelInput, at: CallContext, violations: Violations
) -> ScoredRegion | None:
    if card.positions:
        return score_region(request.score_region, card, picture, "score_region", at, violations)
    if request.HasField("score_region"):
        why = f"{card.name} gives one score for each picture"
        violations.not_applicable(f"score_region does not apply, since {why}; leave it out")
    return None


def _to_eight_bits(picture: ModelInput) -> ModelInput:
    if picture.pixels.dtype == np.uint8:
        return picture
    return picture._replace(pixels=(picture.pixels * 255).round().astype(np.uint8))


def _with_canvas(request: attack_pb2.AttackRequest, card: ModelCard) -> attack_pb2.AttackRequest:
    """The request with a grey picture, where the method needs none and none was sent."""
    if request.method.WhichOneof("method") not in FROM_SCRATCH or request.image.WhichOneof("kind"):
        return request
    shape = (card.height, card.width, 3)
    grey = pb.Tensor(shape=shape, dtype=pb.DTYPE_UINT8, data=bytes([CANVAS_LEVEL]) * math.prod(shape))
    changed = attack_pb2.AttackRequest(preprocess=pb.PREPROCESS_AS_IS, image=pb.Image(tensor=grey))
    changed.MergeFrom(request)
    changed.preprocess = pb.PREPROCESS_AS_IS
    return changed


def _ball(
    request: attack_pb2.AttackRequest,
    name: str,
    card: ModelCard,
    size: Sequence[int],
    violations: Violations,
) -> Ball:
    method = METHODS[name or "pgd"]
    norm: Any = choice(NORM, request.norm, "norm", violations) or "linf"
    if not method.bounded:
        if request.HasField("eps"):
            violations.add("eps", f"does not apply to {name}, which has a measure of its own", for_every_model=True)
        return Ball(norm)
    max_eps = 1.0 if norm == "linf" else math.sqrt(3 * size[0] * size[1])
    if not request.HasField("eps"):
        return Ball(norm, card.default_eps if norm == "linf" else min(size) / 64)
    if not 0 <= request.eps <= max_eps:  # This is false for NaN too.
        hint = "; pixels are in [0, 1], where one level of 255 is 1/255" if norm == "linf" else ""
        text = f"must be from 0 to {max_eps:g} for {norm.upper()}, was {request.eps:g}{hint}"
        violations.add("eps", text, for_every_model=norm == "linf")
    return Ball(norm, request.eps)


def _transform(request: attack_pb2.AttackRequest, name: str, violations: Violations) -> InputTransform:
    transform = InputTransform()
    if request.HasField("eot"):
        method = METHODS[name or "pgd"]
        if method.uses == "scores" or not method.eot:
            alternatives = ", ".join(n for n, m in METHODS.items() if m.uses == "gradients" and m.eot)
            violations.add("eot", f"does not apply to {name}; it does to {alternatives}", for_every_model=True)
        transform = replace(transform, eot=parse_fields(eot, request.eot, "eot", violations))
    if request.HasField("defence"):
        kind = request.defence.WhichOneof("method")
        if kind is None:
            violations.add("defence", f"sets no defence; there are: {', '.join(DEFENCES)}", for_every_model=True)
            return transform
        parameters = parse_fields(DEFENCES[kind], getattr(request.defence, kind), f"defence.{kind}", violations)
        transform = replace(transform, defence=kind, parameters=parameters or {})
    elif request.adaptive:
        violations.add(
            "adaptive", "needs a defence to know of: set defence too, or leave adaptive out", for_every_model=True
        )
    return transform


def _maps(
    request: attack_pb2.AttackRequest,
    card: ModelCard,
    picture: ModelInput,
    region: ScoredRegion | None,
    at: CallContext,
    violations: Violations,
) -> list[Call]:
    size = picture.pixels.shape[:2]
    choice(explain_pb2.MapFormat.DESCRIPTOR, request.maps_format, "maps_format", violations)
    if not request.HasField("maps"):
        if request.HasField("maps_target"):
            violations.add("maps_target", "is what maps explain: set maps too, or leave it out", for_every_model=True)
        return []
    own_size = tuple(size) == (card.height, card.width)
    target = target_of(request.maps_target, card, "maps_target", own_size, at, violations)
    targets = [] if target is None else [target]
    calls = calls_of(request.maps, "maps", card, targets, (size[0], size[1]), violations)
    check_applies(calls, card, violations)
    if not reads_scores(request.maps_target):
        region = None
    elif request.maps_target.HasField("region") and card.positions:
        region = score_region(request.maps_target.region, card, picture, "maps_target.region", at, violations)
    return [replace(call, region=region) for call in calls]


def _cost_in_forwards(
    arguments: AttackArguments, method: AttackMethod, size: Sequence[int], violations: Violations
) -> float:
    """The attack's cost in forward passes, certificate included."""
    forwards, gradients = method.rows(arguments.parameters)
    rows = rows_at_most(arguments) - CERTIFICATE_ROWS
    if rows > MAX_ROWS:
        violations.add(f"method.{arguments.method}", f"asks for {rows} passes; at most {MAX_ROWS} are allowed")
    at_once = arguments.transform.views * arguments.parameters.get(method.at_once, 1)
    max_pictures = max(1, MAX_STEP_PIXELS // (size[0] * size[1]))
    if at_once > max_pictures:
        text = f"asks for {at_once} pictures of {size[1]}x{size[0]} at once, changes and draws included"
        violations.add(f"method.{arguments.method}", f"{text}; at most {max_pictures} are allowed")
    return (forwards + passes_cost(gradients, "image")) * arguments.transform.views + CERTIFICATE_ROWS


def rows_at_most(arguments: AttackArguments) -> int:
    """Rows that an attack may ask for, certificate included."""
    return sum(METHODS[arguments.method].rows(arguments.parameters)) * arguments.transform.views + CERTIFICATE_ROWS


def reply(
    request: attack_pb2.AttackRequest,
    bound: Bound,
    attack: Outcome,
    picture: EncodedPicture,
    certificate: Outcome,
    maps: Sequence[Outcome],
) -> attack_pb2.AttackResponse:
    """The picture with its certificate and what else was asked for."""
    attacked: Attacked = attack.result
    arguments: AttackArguments = bound.task.arguments
    message = attack_pb2.AttackResponse(
        adversarial=picture.png,
        certificate=certified(bound, attacked, picture, certificate.result),
        method_name=arguments.method,
        loss=enum_value(LOSS, attacked.goal.loss),
        asked=attacked.asked,
        done=attacked.done,
        region=bound.picture.region,
        provenance=provenance(bound, attack, certificate, *maps),
    )
    parameters = getattr(message.method, arguments.method)
    from_dict(parameters, arguments.parameters)
    parameters.SetInParent()
    if "success_rate" in attacked.notes:
        message.success_rate = attacked.notes["success_rate"]
    if "patch" in attacked.notes:
        message.patch = png(attacked.notes["patch"])
    for stage in attacked.notes.get("stages", ()):
        message.stages.add(**stage._asdict())
    if request.perturbation:
        message.perturbation, message.magnification = magnified(picture.pixels, bound.task.image)
    if request.trajectory:
        message.trajectory.extend(_step(point, bound.card) for point in attacked.trajectory)
    for outcome, field in zip(maps, (message.map_before, message.map_after), strict=False):
        field.CopyFrom(explanation(bound.maps[0], outcome.result[0], bound.card, request.maps_format))
    return message


def _step(point: TrajectoryPoint, card: ModelCard) -> attack_pb2.TrajectoryStep:
    (predicted,) = scores(point.logits, [int(point.logits.argmax())], card)
    return attack_pb2.TrajectoryStep(step=point.step, predicted=predicted, margin=point.margin, loss=point.value)
