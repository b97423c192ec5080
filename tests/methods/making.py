"""Running Maximize and Stylize as a worker does, and hearing every step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended, Progressed
from gradserve_server.engine.job import Job, Progress, Steps
from gradserve_server.methods.goals import Goal, Summand
from gradserve_server.methods.maximize import (
    PRESETS,
    MaximizeArguments,
    Maximized,
    MaximizeSettings,
    maximize,
)
from gradserve_server.methods.parameters import bind
from gradserve_server.methods.targets import Target
from gradserve_server.models.prepared import Prepared

GREY = 0.5


def recipe(preset: str = "plain", **settings: Any) -> MaximizeSettings:
    """A preset with some settings replaced."""
    return MaximizeSettings(**bind(MaximizeSettings, {**PRESETS[preset], **settings}))  # type: ignore[index]


def of_class(label: int, weight: float = 1.0) -> Goal:
    return (Summand(weight, Target(label=label)),)


def canvas(model: Prepared, height: int, width: int) -> Tensor:
    return torch.full((1, 3, height, width), GREY, dtype=model.dtype)


def maximizing(
    x: Tensor, goals: Sequence[Goal], how: MaximizeSettings, snapshots: Sequence[int] = ()
) -> Callable[[Job], Steps]:
    return lambda job: maximize(job, x, MaximizeArguments(tuple(goals), how, tuple(snapshots)))


def run(
    model: Prepared, begin: Callable[[Job], Steps], company: Sequence[Callable[[Job], Steps]] = (), **facts: Any
) -> tuple[Any, list[Progress]]:
    """The result and every report of one job, alone or beside others; raises what ended it."""
    engine = Engine({"model": model})
    for place, other in enumerate(company[::2]):
        engine.submit(Job(f"before {place}", "model", other, seed=7 + place))
    engine.submit(Job("job", "model", begin, **facts))
    for place, other in enumerate(company[1::2]):
        engine.submit(Job(f"after {place}", "model", other, seed=70 + place))
    reports: list[Progress] = []
    while True:
        for event in engine.step():
            if event.job.id != "job":
                continue
            if isinstance(event, Progressed):
                reports.append(event.progress)
            elif isinstance(event, Ended):
                if event.error is not None:
                    raise event.error
                return event.result, reports


def made(model: Prepared, x: Tensor, label: int, preset: str = "plain", **settings: Any) -> Maximized:
    """The picture of one class, made alone."""
    result, _ = run(model, maximizing(x, [of_class(label)], recipe(preset, **settings)))
    found: Maximized = result[0]
    return found


def losses(reports: Sequence[Progress], name: str) -> Tensor:
    """One loss of the first image at every step."""
    return torch.stack([report.losses[name][0] for report in reports])


Curves = Mapping[str, Any]
