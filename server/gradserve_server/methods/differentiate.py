"""Differentiate: the gradients of a batch of images, encoded for the wire."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..engine.job import Job, Steps
from ..engine.objective import NotApplicable, Objective
from ..engine.query import Answer, Query, Tap, Wrt, join
from ..engine.scores import ranking
from ..models.rules import Rule
from .goals import Goal, objective_of, resolved, targets_in, weighted_targets
from .targets import cancelled, look_up

GradientFormat = Literal["float32", "bfloat16", "float16"]
MAX_EXPONENT = 15  # A row's largest number is scaled to below 2^15, as float16 ends at 2^16.
MAX_FACTOR_EXPONENT = 127  # A factor of 2^128 is beyond fp32.


@dataclass(frozen=True, slots=True)
class DifferentiateArguments:
    """What is differentiated, by what, under which rule, and how the gradient travels."""

    goals: tuple[Goal, ...]  # One for all images, or one for each.
    wrt: Wrt
    layer: str = ""  # The layer to differentiate by, where `wrt` is "taps".
    rule: Rule = "plain"
    format: GradientFormat = "float32"


@dataclass(frozen=True, slots=True)
class Differentiated:
    """The answer for n images; the gradient is [n, H, W, 3] by pixels, by a layer [n, C, h, w] or [n, C]."""

    values: np.ndarray  # [n]
    logits: np.ndarray | None  # [n, classes]; None where a goal reads layers alone.
    gradient: np.ndarray | None  # As float32, float16, or int16 with the bits of bfloat16.
    scales: np.ndarray | None  # [n], by which the rows of a float16 gradient are to be multiplied.


def differentiate(job: Job, x: Tensor, arguments: DifferentiateArguments) -> Steps:
    """[n, 3, H, W] -> Differentiated. Each image is a row of passes that it shares with other jobs."""
    goals = arguments.goals
    prerequisites = yield from look_up(targets_in(goals), x, resolve_ranks=False)
    if prerequisites.classes and len(goals) == 1:
        goals = goals * len(x)
    if prerequisites.classes:
        goals = tuple(resolved(goal, classes) for goal, classes in zip(goals, prerequisites.classes, strict=True))
    objectives = [objective_of(goal, prerequisites, x) for goal in goals]
    answers = yield [_query(images, objective, arguments) for images, objective in _by_objective(x, objectives)]
    answer: Answer = join([replace(each, terms=None) for each in answers])  # Their numbers of terms differ.
    assert answer.value is not None, "every query has an objective"
    if answer.logits is not None:
        _check_ranks(arguments.goals, answer.logits)
    gradient = answer.image_grad if arguments.wrt == "image" else next(iter(answer.act_grads), None)
    if gradient is not None and arguments.wrt == "image":
        gradient = gradient.permute(0, 2, 3, 1)
    encoded = Encoded(None, None) if gradient is None else encode(gradient, arguments.format)
    # A row whose objective reads layers alone has logits only where others of its pass need them.
    reads_logits = all(objective.reads_logits for objective in objectives)
    logits = answer.logits.float().cpu().numpy() if reads_logits and answer.logits is not None else None
    return Differentiated(answer.value.double().cpu().numpy(), logits, *encoded)


def _by_objective(x: Tensor, objectives: Sequence[Objective]) -> list[tuple[Tensor, Objective]]:
    """Images with the objective that is theirs: all of them with a single one, or each with its own."""
    return [(x, objectives[0])] if len(objectives) == 1 else list(zip(x.split(1), objectives, strict=True))


def _query(images: Tensor, objective: Objective, arguments: DifferentiateArguments) -> Query:
    taps = (Tap(arguments.layer),) if arguments.wrt == "taps" else ()
    return Query(images, objective, arguments.wrt, taps, arguments.rule)


def _check_ranks(goals: Sequence[Goal], logits: Tensor) -> None:
    """Raises NotApplicable where a rank turned out to be a class that its own goal names, so that both cancel out."""
    mixed = [len({bool(target.rank) for target, _ in weighted_targets(goal)}) > 1 for goal in goals]
    if not any(mixed):
        return
    for i, classes in enumerate(ranking(logits).tolist()):
        at = i if len(goals) > 1 else 0
        if mixed[at]:
            terms = [(target.resolved(classes), weight) for target, weight in weighted_targets(goals[at])]
            if twice := cancelled(terms):
                why = f"images[{i}]: class {twice.label} is contrasted with itself, since a rank is that class"
                raise NotApplicable(f"{why}; name another class or rank")


class Encoded(NamedTuple):
    """A gradient as it travels: its numbers, and for float16 the scale [n] of each row."""

    numbers: np.ndarray | None
    scales: np.ndarray | None


def encode(gradient: Tensor, form: GradientFormat) -> Encoded:
    """[n, ...] -> the same shape on the host.

    A row in float16 is divided by a power of two, which rounds nothing, so that its largest number is just below 2^15.
    Plain float16 has no numbers below 6e-8, and gradients of a saturated network are smaller.
    """
    if form == "float32":
        return Encoded(gradient.float().cpu().numpy(), None)
    if form == "bfloat16":
        return Encoded(gradient.to(torch.bfloat16).contiguous().view(torch.int16).cpu().numpy(), None)
    gradient = gradient.float()
    rows = gradient.flatten(1)
    largest = torch.maximum(rows.amax(1), -rows.amin(1)).cpu().numpy()  # Ten times as fast as `aminmax` on a CPU.
    exponents = np.minimum(MAX_EXPONENT - np.frexp(largest)[1], MAX_FACTOR_EXPONENT)
    factors = torch.from_numpy(np.ldexp(np.float32(1), exponents)).to(gradient.device)
    numbers = (gradient * factors.view(-1, *[1] * (gradient.dim() - 1))).half()
    return Encoded(numbers.cpu().numpy(), np.ldexp(1.0, -exponents))
