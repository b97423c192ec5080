"""How a worker starts: every model is loaded, given its index, and warmed up; what fails of one spares the others."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from ..engine.engine import Engine
from ..engine.events import Ended, ModelFailed, NotFinite, OutOfMemory, Step
from ..engine.job import Job, Steps
from ..engine.objective import NotApplicable, logit
from ..engine.query import Query
from ..engine.take import Key
from ..methods.influence.index import IndexFault
from ..methods.influence.serving import attached
from ..models.card import Precision
from ..models.catalogue import PRECISIONS
from ..models.loading import LoadError
from ..models.preparation import prepare
from ..models.prepared import Prepared
from ..models.sample import difference
from .wire import Ready, WorkerSettings

WARM_UP_ROWS = 8  # at most, where no speed is measured


def begin(settings: WorkerSettings, at: Callable[[str], None] = lambda name: None) -> tuple[Engine, Ready]:
    """Loads and warms up the models. What fails for one of them is told, and the others are served.

    `at` is called with the name of each model before it is loaded or warmed up.
    Raises LoadError where no model can be loaded, or, if the settings are strict, where one cannot.
    """
    device = torch.device(settings.device)
    unavailable: dict[str, str] = {}
    instances: dict[str, dict[str, Prepared]] = {}  # of each model, by their names in the engine
    for spec in settings.models:
        at(spec.name)
        with _failing(spec.name, unavailable):
            model, unfolded = attached(spec, prepare(spec, device))
            if reason := difference(model.card, settings.served.get(spec.name, model.card)):
                raise LoadError(reason)
            instances[spec.name] = {spec.name: model, **unfolded}
    models = {name: model for group in instances.values() for name, model in group.items()}
    engine = Engine(models, rows=settings.rows)
    speeds: dict[str, float] = {}
    for name, group in instances.items():
        at(name)
        with _failing(name, unavailable):
            speeds |= warm_up(engine, group)
    for name in instances.keys() & unavailable.keys():  # what failed in its warm-up
        for instance in instances.pop(name):
            del models[instance]  # and so out of the engine, which has this very mapping
    if unavailable and (settings.strict or not instances):
        raise LoadError("\n".join(f"model {name}: {reason}" for name, reason in unavailable.items()))
    engine.steps.clear()
    cards = tuple(group[name].card for name, group in instances.items())
    return engine, Ready(cards, settings.device, speeds, unavailable)


@contextmanager
def _failing(name: str, unavailable: dict[str, str]) -> Iterator[None]:
    """Notes why a model cannot be served."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, LoadError | IndexFault | NotApplicable | ModelFailed | OutOfMemory)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        unavailable[name] = reason.removeprefix(f"model {name}: ")


def loaded(models: Mapping[str, Prepared]) -> list[tuple[Prepared, Precision]]:
    """Every model in every precision, first all in EXACT."""
    return [(model, each) for each in PRECISIONS for model in models.values() if each in model.card.precisions]


def warm_up(engine: Engine, models: Mapping[str, Prepared]) -> dict[str, float]:
    """Runs models in all their precisions; returns the GFLOP per second of EXACT gradients at full batches."""
    speeds = {}
    for model, precision in loaded(models):
        gradient = _passed(engine, model, precision)
        if precision == "exact":
            speeds[model.card.name] = gradient.gflop / max(gradient.seconds, 1e-9)
    return speeds


def full_rows(engine: Engine, model: Prepared, precision: Precision) -> int:
    """Rows of a full batch of gradients at the model's own size."""
    return engine.limit(Key(model.card.name, precision, model.card.height, model.card.width, "image"))


def _passed(engine: Engine, model: Prepared, precision: Precision) -> Step:
    """A gradient pass, after a forward pass that has made the caches warm."""
    rows = full_rows(engine, model, precision)
    if precision != "exact" and model.device.type == "cpu":
        rows = min(rows, WARM_UP_ROWS)  # memory and kernels for more are quickly had when they come
    images = torch.rand(rows, 3, model.card.height, model.card.width, generator=torch.Generator().manual_seed(0))

    def passes(job: Job) -> Steps:
        yield Query(images, logit(0))
        yield Query(images, logit(0), "image")

    engine.submit(Job("warm-up", model.card.name, passes, precision))
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Ended) and event.error and not isinstance(event.error, NotFinite):
                raise event.error
    return engine.steps[-1]
