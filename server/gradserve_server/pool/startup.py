"""How a worker starts: every model is loaded, given its index, and warmed up; what fails of one spares the others."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from ..engine.engine import Engine
from ..engine.events import Ended, ModelFailed, NotFinite, OutOfMemory, Step
from ..engine.job import Job, Steps
from ..engine.objective import Refused, logit
from ..engine.query import Query
from ..engine.take import Key
from ..methods.influence.index import IndexFault
from ..methods.influence.serving import Attachment
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
    unavailable: dict[str, str] = {}
    models: dict[
        str, Prepared
    ] = {}  # with unfolded instances, by their names in the engine, which has this very mapping
    speeds: dict[str, float] = {}
    engine = Engine(models, rows=settings.rows)
    with ThreadPoolExecutor(1, "index") as background:
        attachments = _loaded(settings, background, unavailable, at)
        for name in sorted(attachments, key=lambda name: attachments[name].indexed):  # while their indexes are built
            at(name)
            group: dict[str, Prepared] = {}
            with _failing(name, unavailable):
                model, unfolded = attachments[name].finish()
                group |= {name: model, **unfolded}
                models |= group
                speeds |= warm_up(engine, group)
            if name in unavailable:
                for instance in group:
                    del models[instance]
    if unavailable and (settings.strict or not models):
        raise LoadError("\n".join(f"model {name}: {reason}" for name, reason in unavailable.items()))
    engine.steps.clear()
    cards = tuple(models[spec.name].card for spec in settings.models if spec.name in models)
    return engine, Ready(cards, settings.device, speeds, unavailable)


def _loaded(
    settings: WorkerSettings, background: Executor, unavailable: dict[str, str], at: Callable[[str], None]
) -> dict[str, Attachment]:
    """The models by name; their indexes are built in the background."""
    device = torch.device(settings.device)
    attachments: dict[str, Attachment] = {}
    for spec in settings.models:
        at(spec.name)
        with _failing(spec.name, unavailable):
            model = prepare(spec, device)
            if reason := difference(model.card, settings.served.get(spec.name, model.card)):
                raise LoadError(reason)
            attachments[spec.name] = Attachment(spec, model, background)
    return attachments


@contextmanager
def _failing(name: str, unavailable: dict[str, str]) -> Iterator[None]:
    """Notes why a model cannot be served."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, LoadError | IndexFault | Refused | ModelFailed | OutOfMemory)
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


def straighten(engine: Engine, model: Prepared, precision: Precision) -> None:
    """Makes the model's passes faster, up to full batches."""
    model.at(precision).straighten(full_rows(engine, model, precision))


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
