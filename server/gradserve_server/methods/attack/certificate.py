"""The certificate: what the model says of the returned picture, measured afresh."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...engine.job import Job, Steps
from ...engine.query import Query
from ...models.preprocess import to_batch
from ..regions import ScoredRegion, placed_as, within
from .goal import Goal
from .input_transform import InputTransform


@dataclass(frozen=True, slots=True, eq=False)
class CertifyArguments:
    """What an attack began with [H, W, 3], uint8, what it was to reach, and the defence that it is judged through."""

    original: np.ndarray
    goal: Goal
    transform: InputTransform
    region: ScoredRegion | None = None  # As in AttackArguments.


@dataclass(frozen=True, slots=True)
class Judged:
    """What the model says of one picture: logits [classes], distance from the goal, whether it is reached."""

    logits: np.ndarray
    margin: float
    reached: bool


@dataclass(frozen=True, slots=True)
class Certified:
    """The original and the returned picture, each looked at alone; without the defence too where there is one."""

    before: Judged
    after: Judged
    undefended: Judged | None


def certify(job: Job, x: Tensor, arguments: CertifyArguments) -> Steps:
    """Judges the returned picture x [1, 3, H, W] and the original in passes of their own."""
    return (yield from within(_certify(job, x, arguments), *placed_as(x, [arguments.region])))


def _certify(job: Job, x: Tensor, arguments: CertifyArguments) -> Steps:
    goal, transform = arguments.goal, arguments.transform
    before = to_batch(arguments.original[None], x.device, x.dtype)
    views = [(before, transform), (x, transform), *([(x, InputTransform())] if transform != InputTransform() else [])]
    with torch.no_grad():
        inputs = [each.rows_to_judge(image, job.run()) for image, each in views]
    answers = yield [Query(rows, unshared=True) for rows in inputs]
    judged = [_judge(goal, answer.logits.mean(0, keepdim=True)) for answer in answers]
    return Certified(judged[0], judged[1], judged[2] if len(judged) > 2 else None)


def _judge(goal: Goal, logits: Tensor) -> Judged:
    return Judged(logits[0].float().cpu().numpy(), float(goal.margin(logits)), bool(goal.reached(logits)))
