"""How a worker starts: it loads every model with its index and warms it up. A model that fails is left out."""

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import torch

from .. import memory
from ..engine.engine import Engine
from ..engine.events import Ended, ModelFailed, NotFinite, OutOfMemory, PassStats
from ..engine.job import Job, Steps
from ..engine.objective import NotApplicable, logit
from ..engine.query import Query
from ..engine.take import Key
from ..methods.indexes.folder import IndexFault
from ..methods.influence.serving import attached
from ..methods.pictures.serving import with_pictures
from ..models.card import Precision
from ..models.catalogue import PRECISIONS
from ..models.loading import LoadError
from ..models.preparation import prepare
from ..models.prepared import Prepared
from ..models.sample import difference
from ..models.sharing import share_weights
from .wire import Loading, Ready, WorkerSettings

log = logging.getLogger(__name__)

MAX_WARM_UP_ROWS = 8  # Most rows of a warm-up pass on a CPU in precisions whose speed is not measured.


def set_up_torch(threads: int) -> None:
    """Sets what holds for a whole process: its compute threads, and fp32 throughout on GPUs."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def begin(settings: WorkerSettings, on_model: Callable[[Loading], None] = lambda loading: None) -> tuple[Engine, Ready]:
    """Loads and warms up the models. Those that fail are in `Ready.unavailable`, and the others are served.

    `on_model` is called before each model is loaded or warmed up.
    Raises LoadError where no model can be loaded, or, if the settings are strict, where one cannot.
    """
    device = torch.device(settings.device)
    unavailable: dict[str, str] = {}
    instances: dict[str, dict[str, Prepared]] = {}  # The instances of each model, by their names in the engine.
    seconds: dict[str, float] = {}
    for number, spec in enumerate(settings.models, 1):
        on_model(Loading(spec.name))
        if settings.logs_models:
            log_loading(spec.name, number, len(settings.models))
        with _noting_failure(spec.name, unavailable), _timed(spec.name, seconds):
            model, unfolded = attached(spec, prepare(spec, device))
            model = with_pictures(spec, model)
            if reason := difference(model.card, settings.served.get(spec.name, model.card)):
                raise LoadError(reason)
            instances[spec.name] = {spec.name: model, **unfolded}
            if settings.folder:
                share(instances[spec.name], Path(settings.folder))
    models = {name: model for group in instances.values() for name, model in group.items()}
    engine = Engine(models, rows=settings.rows)
    speeds: dict[tuple[str, Precision], float] = {}
    for name, group in instances.items():
        on_model(Loading(name, warming_up=True))
        with _noting_failure(name, unavailable), _timed(name, seconds):
            speeds |= warm_up(engine, group)
        if settings.logs_models and name not in unavailable:
            log_loaded(engine, name, seconds[name])
    for name in instances.keys() & unavailable.keys():  # These failed in their warm-up.
        for instance in instances.pop(name):
            del models[instance]  # The engine holds the same mapping, so that it forgets them too.
    if unavailable and (settings.strict or not instances):
        raise LoadError("\n".join(f"model {name}: {reason}" for name, reason in unavailable.items()))
    engine.passes.clear()
    gc.collect()
    memory.give_back()  # The C library would keep what loading took, as it keeps what passes take (`forking`).
    cards = tuple(group[name].card for name, group in instances.items())
    rows = {(card.name, each): full_rows(engine, models[card.name], each) for card in cards for each in card.precisions}
    return engine, Ready(cards, settings.device, speeds, rows, unavailable, settings.generation)


def share(instances: Mapping[str, Prepared], folder: Path) -> None:
    """Moves the weights of a model, in all its precisions, to memory that the workers of the host share."""
    name = min(instances, key=len)
    key = sha256(f"{name} {instances[name].card.digest}".encode()).hexdigest()[:16]  # Generations have other weights.
    networks = [each.network for model in instances.values() for each in (model, *model.others.values())]
    share_weights(networks, folder / f"weights-{key}")


def log_loading(name: str, number: int, count: int) -> None:
    """Logs which model a worker loads now."""
    facts = {"event": "loading", "model": name, "number": number, "of": count}
    text = f"loading {name} ({number} of {count})"
    log.info("%s", text, extra={"fields": {"message": text, **facts}})


def log_loaded(engine: Engine, name: str, seconds: float) -> None:
    """Logs that a model is ready: how long it took, the rows of its full passes, and its weights."""
    card = engine.models[name].card
    rows = {precision: full_rows(engine, engine.models[name], precision) for precision in card.precisions}
    facts = {"event": "loaded", "model": name, "seconds": round(seconds, 3), "rows": rows, "weights": card.digest}
    shown = ", ".join(f"{count} in {precision.upper()}" for precision, count in rows.items())
    text = f"loaded {name} in {seconds:.1f} s: rows per pass {shown}; weights {card.digest[:12]}"
    log.info("%s", text, extra={"fields": {"message": text, **facts}})


@contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Adds the seconds that pass inside to those of a model."""
    began = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began


@contextmanager
def _noting_failure(name: str, unavailable: dict[str, str]) -> Iterator[None]:
    """Notes why a model cannot be served."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, LoadError | IndexFault | NotApplicable | ModelFailed | OutOfMemory)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        unavailable[name] = reason.removeprefix(f"model {name}: ")


def by_precision(models: Mapping[str, Prepared]) -> list[tuple[Prepared, Precision]]:
    """Every model in each of its precisions; all in EXACT come first."""
    return [(model, each) for each in PRECISIONS for model in models.values() if each in model.card.precisions]


def warm_up(engine: Engine, models: Mapping[str, Prepared]) -> dict[tuple[str, Precision], float]:
    """Runs models in all their precisions; returns the GFLOP per second of gradients at full batches."""
    speeds = {}
    for model, precision in by_precision(models):
        gradient = _measure_gradient(engine, model, precision)
        speeds[model.card.name, precision] = gradient.gflop / max(gradient.seconds, 1e-9)
    return speeds


def full_rows(engine: Engine, model: Prepared, precision: Precision) -> int:
    """Rows of a full batch of gradients at the model's own size."""
    return engine.limit(Key(model.card.name, precision, model.card.height, model.card.width, "image"))


def _measure_gradient(engine: Engine, model: Prepared, precision: Precision) -> PassStats:
    """Runs a gradient pass, after a forward pass that warms the caches; returns the gradient pass's statistics."""
    rows = full_rows(engine, model, precision)
    if precision != "exact" and model.device.type == "cpu":
        rows = min(rows, MAX_WARM_UP_ROWS)  # Later passes of more rows lose little time.
    images = torch.rand(rows, 3, model.card.height, model.card.width, generator=torch.Generator().manual_seed(0))

    def passes(job: Job) -> Steps:
        yield Query(images, logit(0))
        yield Query(images, logit(0), "image")

    engine.submit(Job("warm-up", model.card.name, passes, precision))
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Ended) and event.error and not isinstance(event.error, NotFinite):
                raise event.error
    return engine.passes[-1]
