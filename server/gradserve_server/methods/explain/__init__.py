"""Explain: every method is a generator from an image and a target to a map. METHODS is the whole list.

A new method is a function here, a row in METHODS, a message in protos/gradserve/v1/explain.proto with the same
parameters, and a row in the table of tests/methods/test_explain.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ...engine.job import Job, Run, Steps, together
from ...engine.objective import Objective, channel, logit, unit
from ...engine.query import Query
from ...models.card import ModelCard
from .averages import integrated_gradients, smooth_grad
from .cam import grad_cam, guided_grad_cam
from .maps import Map
from .occlusion import occlusion, occlusion_rows
from .saliency import deconvnet, gradient, gradient_x_input, guided_backprop

Parameters = Mapping[str, Any]


def needs_nothing(card: ModelCard) -> str:
    """Applies to every model."""
    return ""


def needs_rules(card: ModelCard) -> str:
    """Needs ReLUs whose backward can be ruled."""
    return card.rules_refused


def needs_map(card: ModelCard) -> str:
    """Needs a layer with spatial extent."""
    return "" if card.grad_cam_layer else "no layer of it has spatial extent"


def needs_both(card: ModelCard) -> str:
    """Needs ReLUs and a map."""
    return needs_rules(card) or needs_map(card)


class Method(NamedTuple):
    """A method, why it may not apply to a model, and how many rows it costs."""

    function: Callable[..., Steps]
    refuses: Callable[[ModelCard], str] = needs_nothing
    rows: Callable[[Parameters, tuple[int, int]], int] = lambda parameters, size: 1


METHODS: Mapping[str, Method] = {
    "gradient": Method(gradient),
    "gradient_x_input": Method(gradient_x_input),
    "smooth_grad": Method(smooth_grad, rows=lambda p, size: p["samples"] + 1),
    "integrated_gradients": Method(integrated_gradients, rows=lambda p, size: p["steps"] + 2),
    "guided_backprop": Method(guided_backprop, needs_rules),
    "deconvnet": Method(deconvnet, needs_rules),
    "grad_cam": Method(grad_cam, needs_map),
    "guided_grad_cam": Method(guided_grad_cam, needs_both, rows=lambda p, size: 2),
    "occlusion": Method(occlusion, rows=occlusion_rows),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A class by index or by predicted rank (1 is the top), or a unit or channel of a layer."""

    label: int | None = None
    rank: int | None = None
    layer: str = ""
    channel: int = 0
    position: tuple[int, int] | None = None

    def objective(self, ranking: Sequence[int]) -> Objective:
        """The number to differentiate, given the classes by falling logit."""
        if self.layer:
            return (
                unit(self.layer, self.channel, *self.position) if self.position else channel(self.layer, self.channel)
            )
        return logit(ranking[self.rank - 1] if self.rank else self.label or 0)


@dataclass(frozen=True, slots=True)
class Call:
    """One method with its parameters for one target."""

    method: str
    parameters: Parameters
    target: Target


@dataclass(frozen=True, slots=True)
class Explained:
    """One call's answer: Map's fields as numpy, the class that a rank turned out to be, and how far it came."""

    values: np.ndarray
    target_value: float
    label: int | None
    coarse: np.ndarray | None
    completeness_gap: float | None
    asked: int
    done: int
    warnings: tuple[str, ...]


def explain(job: Job, x: Tensor, calls: Sequence[Call]) -> Steps:
    """Runs all calls side by side on one image [1, 3, H, W]; all are answered or none. Returns [Explained]."""
    ranking: list[int] = []
    if any(call.target.rank for call in calls):
        answer = yield Query(x)
        ranking = answer.logits[0].argsort(descending=True, stable=True).tolist()
    runs = [job.run(beside=len(calls)) for _ in calls]
    objectives = [call.target.objective(ranking) for call in calls]
    maps = yield from together(
        [
            METHODS[call.method].function(x, objective, run, **call.parameters)
            for call, objective, run in zip(calls, objectives, runs, strict=True)
        ]
    )
    return [_explained(*parts) for parts in zip(objectives, runs, maps, strict=True)]


def _explained(objective: Objective, run: Run, answer: Map) -> Explained:
    if not bool(answer.values.any()):
        run.warn("ZERO_MAP: the target does not depend on this image in any pixel")
    term = objective.terms[0]
    return Explained(
        values=answer.values.float().cpu().numpy(),
        target_value=float(answer.target_value),
        label=None if term.layer else term.indices[0],
        coarse=None if answer.coarse is None else answer.coarse.float().cpu().numpy(),
        completeness_gap=answer.completeness_gap,
        asked=run.asked,
        done=run.done,
        warnings=tuple(run.warnings),
    )
