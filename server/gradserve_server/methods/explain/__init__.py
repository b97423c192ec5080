"""Explain: every method is a generator from an image and a target to a map. METHODS is the whole list.

docs/contributing.md names every place that a new method touches.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ...engine.events import NotFinite
from ...engine.job import Job, MethodContext, Steps, TimeUp, together
from ...engine.objective import Objective
from ...engine.query import Wrt
from ...engine.scores import ranking
from ...models.card import ModelCard
from ...models.rules import Relevance
from ..regions import ScoredRegion, placed_as, within
from ..targets import AnyTarget, Contrast, Prerequisites, Target, look_up, look_up_rows, without_image
from .averages import gradient_shap, integrated_gradients, smooth_grad
from .cam import grad_cam, guided_grad_cam, layer_cam
from .judging import Answered, judge
from .lrp import lrp, relevance
from .maps import Map
from .masks import rise, too_many_cells
from .occlusion import occlusion, occlusion_rows
from .reporting import report, reporting, warn_of_error, warn_of_zeros
from .saliency import deconvnet, gradient, gradient_x_input, guided_backprop
from .sanity import Trial, natural_pictures, shuffled_correlation, tried_parameters
from .surrogates import kernel_shap, lime, misfits
from .trust import NO_TIME, NOT_FINITE, Judgement

Parameters = Mapping[str, Any]
Size = tuple[int, int]  # Height and width in pixels.


def needs_nothing(card: ModelCard) -> str:
    """Empty: the method applies to every model. Like this, the functions below say why a method does not apply."""
    return ""


def needs_gradient(card: ModelCard) -> str:
    """Why the model's logits cannot be differentiated by the image; empty if they can."""
    return card.no_gradient


def needs_rules(card: ModelCard) -> str:
    """Why the model has no ReLUs whose backward can follow another rule; empty if it has."""
    return needs_gradient(card) or card.rules_refused


def needs_relevance(card: ModelCard) -> str:
    """Why relevance cannot be propagated through the model; empty if it can."""
    return needs_gradient(card) or card.relevance_refused


def needs_map(card: ModelCard) -> str:
    """Why the model has no layer for Grad-CAM; empty if it has."""
    if card.grad_cam_layer:
        return ""
    notes = [note.removeprefix("GRAD_CAM: ") for note in card.notes if note.startswith("GRAD_CAM: ")]
    return card.no_gradient or next(iter(notes), "no layer of it has spatial extent")


def needs_both(card: ModelCard) -> str:
    """Why the model lacks such ReLUs or a layer for Grad-CAM; empty if it has both."""
    return needs_rules(card) or needs_map(card)


class ExplainMethod(NamedTuple):
    """A method: what it costs, when it applies, and what it needs of the model."""

    function: Callable[..., Steps]
    rows: Callable[
        [Parameters, Size, ModelCard], int
    ]  # The most images that the network sees, for an input of that size.
    refuses: Callable[[ModelCard], str] = needs_nothing  # Why the method does not apply to a model; empty if it does.
    wrt: Wrt = "image"  # What its passes differentiate by; the price of a pass depends on it.
    relevance: Callable[[Parameters], Relevance] | None = None  # The backward rule of its passes, where it is LRP's.
    guided: bool = False  # Whether the method gives ReLUs rules of their own.
    default_layer: bool = False  # Whether `layer` defaults to the model's Grad-CAM layer.
    class_targets_only: str = ""  # A Boolean parameter that rules out all targets but single classes.
    draws_samples: bool = False  # Whether its map is estimated from random samples, of which fewer may suffice.
    misfits: Callable[[Parameters, Size], Mapping[str, str]] = lambda p, size: {}  # What parameters must be for a size.
    one_row: bool = False  # Whether its only row is the image, so that the same pass can resolve a predicted rank.


def _one_row(parameters: Parameters, size: Size, card: ModelCard) -> int:
    return 1


def _samples_and_clean(parameters: Parameters, size: Size, card: ModelCard) -> int:
    return int(parameters["samples"]) + 1


METHODS: Mapping[str, ExplainMethod] = {
    "gradient": ExplainMethod(gradient, _one_row, needs_gradient, class_targets_only="log_prob", one_row=True),
    "gradient_x_input": ExplainMethod(gradient_x_input, _one_row, needs_gradient, one_row=True),
    "smooth_grad": ExplainMethod(smooth_grad, _samples_and_clean, needs_gradient, draws_samples=True),
    "integrated_gradients": ExplainMethod(integrated_gradients, lambda p, size, card: p["steps"] + 2, needs_gradient),
    "guided_backprop": ExplainMethod(guided_backprop, _one_row, needs_rules, guided=True, one_row=True),
    "deconvnet": ExplainMethod(deconvnet, _one_row, needs_rules, guided=True, one_row=True),
    "grad_cam": ExplainMethod(grad_cam, _one_row, needs_map, wrt="taps", default_layer=True, one_row=True),
    "guided_grad_cam": ExplainMethod(
        guided_grad_cam, lambda p, size, card: 2, needs_both, guided=True, default_layer=True
    ),
    "layer_cam": ExplainMethod(layer_cam, _one_row, needs_map, wrt="taps", default_layer=True, one_row=True),
    "lrp": ExplainMethod(lrp, _one_row, needs_relevance, relevance=relevance, one_row=True),
    "occlusion": ExplainMethod(occlusion, lambda p, size, card: occlusion_rows(p, size), wrt="nothing"),
    "rise": ExplainMethod(rise, _samples_and_clean, wrt="nothing", draws_samples=True, misfits=too_many_cells),
    "lime": ExplainMethod(lime, _samples_and_clean, wrt="nothing", draws_samples=True, misfits=misfits),
    "kernel_shap": ExplainMethod(
        kernel_shap, lambda p, size, card: p["samples"] + 2, wrt="nothing", draws_samples=True, misfits=misfits
    ),
    "gradient_shap": ExplainMethod(gradient_shap, _samples_and_clean, needs_gradient, draws_samples=True),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One method with its parameters for one target."""

    method: str
    parameters: Parameters
    target: AnyTarget
    region: ScoredRegion | None = None  # The positions that class scores are summed over, where a network has such.


def rows_of(call: Call, size: Size, card: ModelCard) -> int:
    """Images that the network sees for it, for an input of that size."""
    return METHODS[call.method].rows(call.parameters, size, card)


def relevance_of(call: Call) -> Relevance | None:
    """The rule of its passes, where it is LRP's."""
    rule = METHODS[call.method].relevance
    return None if rule is None else rule(call.parameters)


def first_rows(calls: Sequence[Call]) -> int:
    """Forward passes that the targets need before their maps.

    Calls with regions each need their own, for ranks too. Without regions calls share them, and a pass for plain ranks
    alone is not counted.
    """
    if any(call.region is not None for call in calls):
        return sum(look_up_rows([call.target]) for call in calls)
    return look_up_rows((call.target for call in calls), resolve_ranks=False)


@dataclass(frozen=True, slots=True)
class ExplainArguments:
    """The maps of a request, one for each call; how they are judged; and the methods that are tried first."""

    calls: tuple[Call, ...]
    until_stable: float | None = None  # The relative standard error at which methods draw no more samples.
    trust: bool = False
    curves: bool = False  # Only with `trust`.
    trial: Trial | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """One call's answer: Map's fields as numpy, the target with the classes that it has, and how far it came."""

    values: np.ndarray
    target_value: float
    target: AnyTarget
    coarse: np.ndarray | None
    completeness_gap: float | None
    asked: int
    done: int
    warnings: tuple[str, ...]
    judgement: Judgement | None = None
    shuffled_correlation: float | None = None  # The correlation that a trial of its method measured, if there was one.
    standard_error: float | None = None
    settled: bool = False  # Whether fewer samples than asked for sufficed.


def explain(job: Job, x: Tensor, arguments: ExplainArguments) -> Steps:
    """Runs all calls side by side on one image [1, 3, H, W]; all are answered or none. Returns [Explained]."""
    answered: list[Answered] = yield from _maps(job, x, arguments)
    results: list[Explained] = [each.explained for each in answered]
    if not arguments.trust:
        return results
    try:
        if job.hurried:
            raise TimeUp
        judgements = yield from judge(job, x, answered, [each.values for each in results], with_curves=arguments.curves)
        results = [replace(each, judgement=found) for each, found in zip(results, judgements, strict=True)]
    except TimeUp:
        return _unjudged(results, NO_TIME)
    except NotFinite:
        results = _unjudged(results, NOT_FINITE)
    if arguments.trial is not None:
        with suppress(TimeUp):
            results = yield from _try(job, x, arguments.trial, arguments.calls, results)
    return results


def _try(job: Job, x: Tensor, trial: Trial, calls: Sequence[Call], results: Sequence[Explained]) -> Steps:
    """The results, with the correlations that the trial of their methods measures."""
    images, tried = natural_pictures(*trial.size).to(x), list(results)
    for i in trial.calls:
        function, parameters = METHODS[calls[i].method].function, tried_parameters(calls[i].parameters)
        contrast = isinstance(calls[i].target, Contrast)
        with suppress(NotFinite):  # Nothing is known then.
            found = yield from shuffled_correlation(job, images, trial.layer, function, parameters, contrast=contrast)
            tried[i] = replace(tried[i], shuffled_correlation=found)
    return tried


def _unjudged(results: Sequence[Explained], why: str) -> list[Explained]:
    return [replace(each, warnings=(*each.warnings, why)) for each in results]


def _maps(job: Job, x: Tensor, arguments: ExplainArguments) -> Steps:
    """The maps of all calls. Returns [Answered]."""
    calls = arguments.calls
    if any(call.region is not None for call in calls):
        weights = placed_as(x, [call.region for call in calls])
        steps = [_explain_one(job, x, place, arguments) for place in range(len(calls))]
        return (yield from together([within(*each) for each in zip(steps, weights, strict=True)]))
    first = calls[0].target
    if len(calls) == 1 and METHODS[calls[0].method].one_row and isinstance(first, Target) and first.rank:
        return [(yield from _explain_ranked_class(job, x, calls[0], first))]
    prerequisites: Prerequisites = yield from look_up([call.target for call in calls], x)
    targets = [call.target.resolved(prerequisites.classes[0] if prerequisites.classes else ()) for call in calls]
    runs = [job.run(len(calls), arguments.until_stable) for _ in calls]
    objectives = [target.objective(prerequisites) for target in targets]
    parts = zip(calls, targets, objectives, runs, strict=True)
    return (yield from together([_run_method(job, x, place, *part) for place, part in enumerate(parts)]))


def _explain_one(job: Job, x: Tensor, place: int, arguments: ExplainArguments) -> Steps:
    """Runs one of several calls by itself, for a region's ranks are its own. Returns Answered."""
    call = arguments.calls[place]
    prerequisites: Prerequisites = yield from look_up([call.target], x)
    target = call.target.resolved(prerequisites.classes[0] if prerequisites.classes else ())
    run = job.run(len(arguments.calls), arguments.until_stable)
    return (yield from _run_method(job, x, place, call, target, target.objective(prerequisites), run))


def _run_method(
    job: Job, x: Tensor, place: int, call: Call, target: AnyTarget, objective: Objective, run: MethodContext
) -> Steps:
    """Runs one call, and reports its map where that is wanted. Returns Answered."""
    steps = METHODS[call.method].function(x, objective, run, **call.parameters)
    if job.tells_parts:
        steps = reporting(steps, run, place, lambda so_far: _explained(call, target, run, so_far))
    result = _result(call, target, run, (yield from steps))
    yield from report(job, place, result, run)
    return Answered(result, target, objective, call.region)


def _explain_ranked_class(job: Job, x: Tensor, call: Call, target: Target) -> Steps:
    """Runs a call whose only pass also finds the class of its target's rank. Returns Answered."""
    run = job.run()
    steps = METHODS[call.method].function(x, target.objective(Prerequisites()), run, **call.parameters)
    answer = yield next(steps)
    try:
        steps.send(answer)
    except StopIteration as stop:
        resolved = target.resolved(ranking(answer.logits)[0].tolist())
        result = _result(call, resolved, run, stop.value)
        yield from report(job, 0, result, run)
        return Answered(result, resolved, resolved.objective(Prerequisites()))
    raise AssertionError(f"{call.method} has one row")


def _result(call: Call, target: AnyTarget, run: MethodContext, answer: Map) -> Explained:
    method = METHODS[call.method]
    if not answer.values.float().any():
        warn_of_zeros(run, by_layer=method.default_layer)
    elif method.draws_samples:
        warn_of_error(run, answer.standard_error)
    return _explained(call, target, run, answer)


def _explained(call: Call, target: AnyTarget, run: MethodContext, answer: Map) -> Explained:
    return Explained(
        values=answer.values.float().cpu().numpy(),
        target_value=float(answer.target_value),
        target=without_image(target),
        coarse=None if answer.coarse is None else answer.coarse.float().cpu().numpy(),
        completeness_gap=answer.completeness_gap,
        asked=run.asked,
        done=run.done,
        warnings=tuple(run.warnings),
        standard_error=answer.standard_error,
        settled=run.settled,
    )
