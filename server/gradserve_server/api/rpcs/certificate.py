"""What follows an attack: the tasks of its certificate and of its maps, and the certificate itself."""

import io
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from gradserve.v1 import attack_pb2

from ...methods.attack import FROM_SCRATCH, AttackArguments, Attacked, Goal
from ...methods.attack.certificate import Certified, CertifyArguments, Judged
from ...methods.explain import ExplainArguments, relevance_of
from ...models.card import ModelCard, Precision
from ...pool.wire import Task
from ..fields import enum_value
from ..pictures.images import png
from ..reply import probability_notes, scores
from ..request import Bound
from .explain import cost_of

LEVELS = 255
NO_CHANGE_LEVEL = 128
COMPANY_TOLERANCE = 1e-3  # Relative tolerance between logits computed alone and in a shared batch.
# Time kept for the certificate: a share of the time left, and its limit.
RESERVED_SHARE, MAX_RESERVED_SECONDS = 0.15, 1.0
VERDICT, NORM = (attack_pb2.DESCRIPTOR.enum_types_by_name[name] for name in ("Verdict", "Norm"))


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """The picture as it is returned, and its pixels as any reader decodes them."""

    png: bytes
    pixels: np.ndarray


def encode_picture(attacked: Attacked) -> EncodedPicture:
    """Encodes the attack's picture as PNG, and decodes it again, as any reader of the reply will see it."""
    data = png(attacked.pixels)
    with Image.open(io.BytesIO(data)) as picture:
        return EncodedPicture(data, np.asarray(picture))


def attack_task(task: Task) -> Task:
    """The task of the attack itself: it has an earlier deadline, which leaves time for the certificate."""
    remaining = task.deadline - time.monotonic()
    if remaining == math.inf:
        return task
    return replace(task, deadline=task.deadline - min(MAX_RESERVED_SECONDS, RESERVED_SHARE * remaining))


def certificate_task(task: Task, attacked: Attacked, picture: np.ndarray[Any, Any]) -> Task:
    """The task that judges, in fp32, the picture as it was decoded from the very bytes of the answer."""
    attack: AttackArguments = task.arguments
    arguments = CertifyArguments(task.image, attacked.goal, attack.transform.without_eot(), attack.region)
    return _task_after(task, "certificate", picture, arguments, "exact")


def map_task(bound: Bound, picture: np.ndarray[Any, Any], which: str) -> Task:
    """The task of the maps of one of the two pictures, [H, W, 3]; `which` is "before" or "after".

    Unlike the certificate's, its cost is no part of the attack's.
    """
    task = bound.task
    precision: Precision = "exact" if any(map(relevance_of, bound.maps)) else task.precision
    explaining = _task_after(task, "explain", picture, ExplainArguments(bound.maps), precision)
    return replace(explaining, id=f"{task.id}/{which}", cost=cost_of(bound.maps, bound.card, picture))


def _task_after(task: Task, rpc: str, picture: np.ndarray[Any, Any], arguments: Any, precision: Precision) -> Task:
    return replace(
        task,
        id=f"{task.id}/{rpc}",
        rpc=rpc,
        image=picture,
        arguments=arguments,
        precision=precision,
        allow_partial=False,
        cost=0.0,  # The attack's cost includes the certificate's.
        least_cost=0.0,
    )


def certified(
    bound: Bound, attacked: Attacked, picture: EncodedPicture, judgements: Certified
) -> attack_pb2.Certificate:
    """The verdict and all that it rests on."""
    goal, classes = attacked.goal, bound.card.classes
    change = picture.pixels.astype(np.float64) - bound.task.image.astype(np.float64)
    l2, linf = float(np.sqrt(np.square(change).sum())) / LEVELS, float(np.abs(change).max()) / LEVELS
    certificate = attack_pb2.Certificate(
        verdict=enum_value(VERDICT, verdict(bound.task.arguments, attacked, judgements)),
        label=goal.label,
        label_name=classes[goal.label],
        before=_judgement(judgements.before, goal, bound.card),
        after=_judgement(judgements.after, goal, bound.card),
        l0=int(change.any(2).sum()),
        l2=l2,
        linf=linf,
        norm=enum_value(NORM, attacked.ball.norm),
        within_budget=attacked.ball.holds(linf, l2),
        queries=attacked.queries,
        gradients=attacked.gradients,
        first_success=attacked.first_success,
        eps=attacked.ball.eps,
        mask_pixels=None if attacked.ball.mask is None else int(attacked.ball.mask.sum()),
        warnings=[*attacked.warnings, *_warnings(bound, attacked, judgements)],
    )
    if goal.target is not None:
        certificate.target, certificate.target_name = goal.target, classes[goal.target]
    if judgements.undefended is not None:
        certificate.undefended.CopyFrom(_judgement(judgements.undefended, goal, bound.card))
    return certificate


def verdict(arguments: AttackArguments, attacked: Attacked, judgements: Certified) -> str:
    """Whether the returned picture reaches the attack's goal, and if it does not, why."""
    if judgements.before.reached and arguments.method not in FROM_SCRATCH:
        return "already_misclassified"
    if judgements.after.reached:
        return "found"
    return "not_found" if attacked.first_success is None else "lost_in_encoding"


def magnified(after: np.ndarray, before: np.ndarray) -> tuple[bytes, float]:
    """The change as a PNG around grey, and the whole factor that brings its largest value near the end of the range."""
    change = after.astype(np.int64) - before
    factor = max(1, (LEVELS - NO_CHANGE_LEVEL) // max(1, int(np.abs(change).max())))
    return png((NO_CHANGE_LEVEL + factor * change).clip(0, LEVELS).astype(np.uint8)), float(factor)


def _judgement(judged: Judged, goal: Goal, card: ModelCard) -> attack_pb2.Judgement:
    targets = [] if goal.target is None else [goal.target]
    predicted, label, *target = scores(judged.logits, [int(judged.logits.argmax()), goal.label, *targets], card)
    return attack_pb2.Judgement(
        predicted=predicted, label=label, margin=judged.margin, target=target[0] if target else None
    )


def _warnings(bound: Bound, attacked: Attacked, judgements: Certified) -> list[str]:
    arguments: AttackArguments = bound.task.arguments
    warnings = []
    if arguments.transform.defence and not arguments.adaptive:
        warnings.append("NOT_ADAPTIVE: the attack did not know the defence; what it could not do, another may")
    if arguments.transform.defence == "noise":
        warnings.append("RANDOM_DEFENCE: judged by the mean logits of a few draws of its noise; other draws differ")
    warnings += probability_notes(bound.card)
    if attacked.ball.norm == "linf" and attacked.ball.eps is not None and 0 < attacked.ball.eps < 1 / LEVELS:
        warnings.append("EPS_BELOW_ENCODING: eps is less than one level of an 8-bit picture: nothing can change")
    if bound.task.precision != "exact":
        better = "" if attacked.goal.loss == "margin" else "; loss margin suffers least"
        warnings.append(f"INEXACT_GRADIENTS: the attack ran in less than fp32, the certificate in fp32{better}")
    elif np.abs(attacked.clean - judgements.before.logits).max() > COMPANY_TOLERANCE * (
        1 + np.abs(judgements.before.logits).max()
    ):
        warnings.append("RANDOMISED: the same picture got other scores when asked again; one draw proves little")
    return warnings
