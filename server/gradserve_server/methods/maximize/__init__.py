"""Maximize: images that a class, unit, channel, layer or direction answers to most, or sums and differences of them.

A new penalty is a function in regularizers.py, a line in PENALTIES (ascent.py), a setting in settings.py, and the same
setting in protos/gradserve/v1/maximize.proto.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...engine.job import Job, Steps
from ...engine.objective import Objective
from ...engine.query import Query
from ..goals import Goal, answered, objective_of, resolved, targets_in
from ..image_run import NOT_MEASURED, Snapshot, Trajectory, as_bytes, numbers, pixels, quantized, resized
from ..targets import Prerequisites, look_up
from .ascent import OBJECTIVE, ascend, penalties_of
from .settings import PRESETS, MaximizeSettings

MIN_STD = 1e-6  # `stretched` divides by no smaller standard deviation.

__all__ = [
    "PRESETS",
    "MaximizeArguments",
    "MaximizeSettings",
    "Maximized",
    "maximize",
    "octave_sizes",
    "stretched",
]


@dataclass(frozen=True, slots=True)
class MaximizeArguments:
    """What images are made for, how, and after which steps they are kept."""

    goals: tuple[Goal, ...]
    settings: MaximizeSettings
    snapshots: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Maximized:
    """One goal's image as uint8 [H, W, 3], and what was measured on those bytes."""

    pixels: np.ndarray
    display: np.ndarray | None  # The image drawn as 0.5 + 0.1 * standardised, where the settings want it.
    value: float  # The objective's value.
    logits: np.ndarray | None  # None where the time was up before the measurement.
    curves: dict[str, np.ndarray]
    snapshots: tuple[Snapshot, ...]
    goal: Goal  # With the classes that ranks turned out to be.
    asked: int
    done: int
    warnings: tuple[str, ...]


def maximize(job: Job, x: Tensor, arguments: MaximizeArguments) -> Steps:
    """Makes one image for every goal from [1, 3, H, W], the start or a canvas of its size. Returns [Maximized]."""
    settings = arguments.settings
    prerequisites: Prerequisites = yield from look_up(targets_in(arguments.goals), x)
    goals = [resolved(goal, prerequisites.classes[0] if prerequisites.classes else ()) for goal in arguments.goals]
    objectives = [objective_of(goal, prerequisites, x) for goal in goals]
    record = Trajectory(job.run(), settings.total, frozenset(arguments.snapshots))
    size = (x.shape[2], x.shape[3])
    ground, detail = x.expand(len(goals), -1, -1, -1), torch.zeros_like(x)
    for octave in octave_sizes(settings, size):
        base = resized(ground, octave)
        images = yield from ascend(base + resized(detail, octave), objectives, settings, record)
        detail = images - base
        if record.ended:
            break
    images = quantized(ground + resized(detail, size))
    if record.run.done in record.snapshots:
        record.snapshot(images)
    values, logits = yield from _measure(images, objectives, record)
    return [_result(i, images[i], values[i], logits, goals[i], settings, record) for i in range(len(goals))]


def octave_sizes(settings: MaximizeSettings, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of every octave, smallest first; the last is the whole."""
    factors = [settings.octave_scale**-i for i in reversed(range(settings.octaves))]
    return [(max(1, round(size[0] * f)), max(1, round(size[1] * f))) for f in factors]


def _measure(images: Tensor, objectives: Sequence[Objective], record: Trajectory) -> Steps:
    """The objectives [n] and logits [n, classes] of finished images; of the last step where there is no time."""
    if not record.late:
        queries = [Query(image[None], objective) for image, objective in zip(images, objectives, strict=True)]
        answers = yield from record.ask([*queries, Query(images)])
        if answers is not None:
            return torch.cat([answer.value for answer in answers[:-1]]), answers[-1].logits
    record.run.warn(NOT_MEASURED)
    return record.curves[-1][OBJECTIVE], None


def _result(
    i: int,
    image: Tensor,
    value: Tensor,
    logits: Tensor | None,
    goal: Goal,
    settings: MaximizeSettings,
    record: Trajectory,
) -> Maximized:
    run = record.run
    names = [OBJECTIVE, *penalties_of(settings)]
    return Maximized(
        pixels=pixels(as_bytes(image)),
        display=pixels(as_bytes(stretched(image))) if settings.stretch else None,
        value=float(value),
        logits=None if logits is None else numbers(logits[i]),
        curves={name: record.curve(name, i) for name in names},
        snapshots=record.snapshots_of(i),
        goal=answered(goal),
        asked=run.asked,
        done=run.done,
        warnings=tuple(run.warnings),
    )


def stretched(image: Tensor) -> Tensor:
    """Mean 0.5 and standard deviation 0.1; an image of one colour becomes grey."""
    off = image - image.mean()
    return 0.5 + 0.1 * off / off.std().clamp_min(MIN_STD)
