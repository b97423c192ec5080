"""From an attack's outcomes to its reply. Everything here runs in threads."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from gradserve.v1 import attack_pb2

from ...methods.attack import FROM_SCRATCH, Attacked, Goal, Plan
from ...methods.attack.certificate import Certified, Judged
from ...methods.attack.oracle import TrajectoryPoint
from ...models.card import ModelCard
from ...pool.wire import Outcome
from ..fields import enum_value, from_dict
from ..images import png
from ..reply import explanation, probability_notes, provenance, scores
from ..request import Bound
from .attack import LOSS, NORM

LEVELS = 255
NO_CHANGE_LEVEL = 128
COMPANY_TOLERANCE = 1e-3  # relative, between logits computed alone and in a shared batch
VERDICTS = attack_pb2.DESCRIPTOR.enum_types_by_name["Verdict"]


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """The picture as it is returned, and its pixels as any reader decodes them."""

    png: bytes
    pixels: np.ndarray


def encode_picture(attacked: Attacked) -> EncodedPicture:
    """Encodes and decodes."""
    data = png(attacked.pixels)
    with Image.open(io.BytesIO(data)) as picture:
        return EncodedPicture(data, np.asarray(picture))


def attack_reply(
    request: attack_pb2.AttackRequest,
    bound: Bound,
    attack: Outcome,
    picture: EncodedPicture,
    certificate: Outcome,
    maps: Sequence[Outcome],
) -> attack_pb2.AttackResponse:
    """The picture with its certificate and what else was asked for."""
    attacked: Attacked = attack.result
    plan: Plan = bound.task.arguments["plan"]
    reply = attack_pb2.AttackResponse(
        adversarial=picture.png,
        certificate=certified(bound, attacked, picture, certificate.result),
        method_name=plan.method,
        loss=enum_value(LOSS, attacked.goal.loss),
        asked=attacked.asked,
        done=attacked.done,
        region=bound.region,
        provenance=provenance(bound, attack, certificate, *maps),
    )
    parameters = getattr(reply.method, plan.method)
    from_dict(parameters, plan.parameters)
    parameters.SetInParent()
    if "success_rate" in attacked.notes:
        reply.success_rate = attacked.notes["success_rate"]
    if "patch" in attacked.notes:
        reply.patch = png(attacked.notes["patch"])
    if request.perturbation:
        reply.perturbation, reply.magnification = magnified(picture.pixels, bound.task.image)
    if request.trajectory:
        reply.trajectory.extend(_step(moment, bound.card) for moment in attacked.moments)
    for outcome, field in zip(maps, (reply.map_before, reply.map_after), strict=False):
        field.CopyFrom(explanation(bound.calls[0], outcome.result[0], bound.card, request.maps_format))
    return reply


def certified(bound: Bound, attacked: Attacked, picture: EncodedPicture, found: Certified) -> attack_pb2.Certificate:
    """The verdict and all that it rests on."""
    goal, classes = attacked.goal, bound.card.classes
    change = picture.pixels.astype(np.float64) - bound.task.image.astype(np.float64)
    l2, linf = float(np.sqrt(np.square(change).sum())) / LEVELS, float(np.abs(change).max()) / LEVELS
    certificate = attack_pb2.Certificate(
        verdict=enum_value(VERDICTS, verdict(bound.task.arguments["plan"], attacked, found)),
        label=goal.label,
        label_name=classes[goal.label],
        before=_judgement(found.before, goal, bound.card),
        after=_judgement(found.after, goal, bound.card),
        l0=int(change.any(2).sum()),
        l2=l2,
        linf=linf,
        norm=enum_value(NORM, attacked.ball.norm),
        within_budget=attacked.ball.holds(linf, l2),
        queries=attacked.queries,
        gradients=attacked.gradients,
        first_success=attacked.first_success,
        eps=attacked.ball.eps,
        warnings=[*attacked.warnings, *_warnings(bound, attacked, found)],
    )
    if goal.target is not None:
        certificate.target, certificate.target_name = goal.target, classes[goal.target]
    if found.undefended is not None:
        certificate.undefended.CopyFrom(_judgement(found.undefended, goal, bound.card))
    return certificate


def verdict(plan: Plan, attacked: Attacked, found: Certified) -> str:
    """What the fresh look says."""
    if found.before.reached and plan.method not in FROM_SCRATCH:
        return "already_misclassified"
    if found.after.reached:
        return "found"
    return "not_found" if attacked.first_success is None else "lost_in_encoding"


def magnified(after: np.ndarray, before: np.ndarray) -> tuple[bytes, float]:
    """PNG of the change around grey, its largest at the edge of the range, and the factor."""
    change = after.astype(np.int64) - before
    factor = max(1, (LEVELS - NO_CHANGE_LEVEL) // max(1, int(np.abs(change).max())))
    return png((NO_CHANGE_LEVEL + factor * change).clip(0, LEVELS).astype(np.uint8)), float(factor)


def _judgement(judged: Judged, goal: Goal, card: ModelCard) -> attack_pb2.Judgement:
    targets = [] if goal.target is None else [goal.target]
    predicted, label, *target = scores(judged.logits, [int(judged.logits.argmax()), goal.label, *targets], card)
    return attack_pb2.Judgement(
        predicted=predicted, label=label, margin=judged.margin, target=target[0] if target else None
    )


def _step(moment: TrajectoryPoint, card: ModelCard) -> attack_pb2.TrajectoryStep:
    (predicted,) = scores(moment.logits, [int(moment.logits.argmax())], card)
    return attack_pb2.TrajectoryStep(step=moment.step, predicted=predicted, margin=moment.margin, loss=moment.value)


def _warnings(bound: Bound, attacked: Attacked, found: Certified) -> list[str]:
    plan: Plan = bound.task.arguments["plan"]
    warnings = []
    if plan.lens.defence and not plan.adaptive:
        warnings.append("NOT_ADAPTIVE: the attack did not know the defence; what it could not do, another may")
    if plan.lens.defence == "noise":
        warnings.append("RANDOM_DEFENCE: judged by the mean logits of a few draws of its noise; other draws differ")
    warnings += probability_notes(bound.card)
    if attacked.ball.norm == "linf" and attacked.ball.eps is not None and 0 < attacked.ball.eps < 1 / LEVELS:
        warnings.append("EPS_BELOW_ENCODING: eps is less than one level of an 8-bit picture: nothing can change")
    if bound.task.precision != "exact":
        better = "" if attacked.goal.loss == "margin" else "; loss margin suffers least"
        warnings.append(f"INEXACT_GRADIENTS: the attack ran in less than fp32, the certificate in fp32{better}")
    elif np.abs(attacked.clean - found.before.logits).max() > COMPANY_TOLERANCE * (
        1 + np.abs(found.before.logits).max()
    ):
        warnings.append("RANDOMISED: the same picture got other scores when asked again; one draw proves little")
    return warnings
