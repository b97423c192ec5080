"""A worker process: one engine on one device, a thread that reads the pipe, and a loop that steps."""

import logging
import os
import queue
import resource
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch

from ..config import LOG_FORMAT
from ..engine.engine import Engine
from ..engine.events import Ended, Event, ModelFailed, NotFinite, OutOfMemory, Step
from ..engine.job import MOST, Job, Progress, Steps, TimeUp
from ..engine.objective import Refused, logit
from ..engine.query import Query
from ..engine.take import Key
from ..methods import RPCS
from ..methods.influence.index import IndexFault
from ..methods.influence.serving import attached
from ..methods.making import as_bytes, pixels, resized
from ..models.card import ModelCard, Precision
from ..models.catalogue import PRECISIONS
from ..models.loading import LoadError
from ..models.preparation import prepare
from ..models.prepared import Prepared
from ..models.sample import difference
from .pipe import Pipe
from .wire import (
    Broken,
    Cancel,
    Failure,
    FailureKind,
    Loading,
    Outcome,
    Preview,
    Ready,
    Stop,
    Task,
    Tick,
    WorkerSettings,
)

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
PREVIEW = 160  # pixels of a preview's longer side
FEW_ROWS = 8  # that the warm-up runs where no speed is measured
CHUNKS = 4  # passes that a wide query may fill
FAILURES: tuple[tuple[type[Exception], FailureKind], ...] = (
    (TimeUp, "deadline"),
    (Refused, "refused"),
    (NotFinite, "not_finite"),
    (ModelFailed, "model_failed"),
    (OutOfMemory, "out_of_memory"),
)


def main(end: socket.socket, settings: WorkerSettings) -> None:
    """The process's entry: load, warm up, say Ready, then serve until Stop or until the front-end is gone."""
    pipe = Pipe(end)
    logging.basicConfig(format=LOG_FORMAT, stream=sys.stderr, level=settings.log_level)
    torch.set_num_threads(settings.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    try:
        engine, ready = begin(settings, lambda name: pipe.send([Loading(name)]))
    except Exception as error:
        pipe.send([Broken(str(error))])
        pipe.close()
        return
    pipe.send([ready])
    chores = [partial(straighten, engine, *each) for each in loaded(engine.models)]
    Worker(pipe, engine, chores).serve()


def begin(settings: WorkerSettings, at: Callable[[str], None] = lambda name: None) -> tuple[Engine, Ready]:
    """Loads and warms up the models. What fails for one of them is told, and the others are served.

    `at` is called with the name of each model before it is loaded or warmed up.
    Raises LoadError where no model can be loaded, or, if the settings are strict, where one cannot.
    """
    device = torch.device(settings.device)
    unavailable: dict[str, str] = {}
    instances: dict[str, dict[str, Prepared]] = {}  # of a model, by their names in the engine
    cards: dict[str, ModelCard] = {}
    speeds: dict[str, float] = {}
    for spec in settings.models:
        at(spec.name)
        with _failing(spec.name, unavailable):
            model, unfolded = attached(spec, prepare(spec, device))
            if reason := difference(model.card, settings.served.get(spec.name, model.card)):
                raise LoadError(reason)
            instances[spec.name] = {spec.name: model, **unfolded}
            cards[spec.name] = model.card
    models = {name: model for group in instances.values() for name, model in group.items()}
    engine = Engine(models, rows=settings.rows)
    for name, group in instances.items():
        at(name)
        with _failing(name, unavailable):
            speeds |= warm_up(engine, group)
    for name in instances.keys() & unavailable.keys():  # what failed in its warm-up
        del cards[name]
        for instance in instances[name]:
            del models[instance]  # and so out of the engine, which has this very mapping
    if unavailable and (settings.strict or not cards):
        raise LoadError("\n".join(f"model {name}: {reason}" for name, reason in unavailable.items()))
    engine.steps.clear()
    return engine, Ready(tuple(cards.values()), settings.device, speeds, unavailable)


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
    """The last gradient pass, when caches are warm."""
    rows = full_rows(engine, model, precision)
    if precision != "exact" and model.device.type == "cpu":
        rows = min(rows, FEW_ROWS)  # memory and kernels for more are quickly had when they come
    images = torch.rand(rows, 3, model.card.height, model.card.width, generator=torch.Generator().manual_seed(0))

    def passes(job: Job) -> Steps:
        yield Query(images, logit(0))
        for _ in range(2):
            yield Query(images, logit(0), "image")

    engine.submit(Job("warm-up", model.card.name, passes, precision))
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Ended) and event.error and not isinstance(event.error, NotFinite):
                raise event.error
    return engine.steps[-1]


class Worker:
    """The loop between the pipe and the engine. `chores` are done in turn while there is nothing else to do."""

    def __init__(self, pipe: Pipe, engine: Engine, chores: Iterable[Callable[[], None]] = ()) -> None:
        self._pipe = pipe
        self._chores = deque(chores)
        self._engine = engine
        self._inbox: queue.SimpleQueue[Task | Cancel | Stop] = queue.SimpleQueue()
        self._stopping = False
        self._ticked = 0.0

    def serve(self) -> None:
        """Takes arrivals, steps, sends what happened; blocks while there is nothing to do."""
        threading.Thread(target=self._read, daemon=True).start()
        while not self._stopping:
            self._accept(block=self._engine.idle and not self._chores)
            self._gather()
            if events := self._engine.step():
                self._pipe.send([told(event) for event in events])
            if self._chores and self._engine.idle and self._inbox.empty():
                self._chores.popleft()()
            if time.monotonic() - self._ticked > TICK_SECONDS:
                self._tick()
        self._pipe.close()

    def _read(self) -> None:
        """Drains the pipe, so that neither side ever blocks on a full one."""
        try:
            while True:
                for message in self._pipe.receive():
                    self._inbox.put(message)
        except (EOFError, OSError):
            os._exit(0)  # the front-end is gone
        except Exception:
            log.exception("a task cannot be read")
            os._exit(1)  # no other would be: let it be started again

    def _accept(self, block: bool) -> None:
        """Everything that has arrived; waits for something if asked to, with the statistics sent after a moment."""
        while block or not self._inbox.empty():
            try:
                message = self._inbox.get(timeout=TICK_SECONDS if block and self._engine.steps else None)
            except queue.Empty:
                self._tick()
                continue
            block = False
            self._take(message)

    def _gather(self) -> None:
        """Waits for more jobs while that is worth it."""
        while not self._stopping and (left := self._engine.worth_waiting()) > 0:
            try:
                self._take(self._inbox.get(timeout=left))
            except queue.Empty:
                return

    def _take(self, message: Task | Cancel | Stop) -> None:
        if isinstance(message, Task):
            self._submit(message)
        elif isinstance(message, Cancel):
            self._engine.cancel(message.id)
        else:
            self._stopping = True

    def _submit(self, task: Task) -> None:
        model = self._engine.models[task.model]
        height, width = task.image.shape[:2]
        key = Key(task.model, task.precision, height, width, "image")
        raced = task.allow_partial and task.deadline < float("inf") and not task.alone

        def begin(job: Job) -> Steps:
            return RPCS[task.rpc](job, tensor(task, model), **task.arguments)

        self._engine.submit(
            Job(
                id=task.id,
                model=task.model,
                begin=begin,
                precision=task.precision,
                priority=task.priority,
                arrived=task.arrived,
                deadline=task.deadline,
                allow_partial=task.allow_partial,
                seed=task.seed,
                report_every=task.report_every,
                chunk=1 if task.alone else self._engine.limit(key) * CHUNKS,
                alone=task.alone,
                room=(lambda: self._engine.fitting(key, task.deadline)) if raced else (lambda: MOST),
            )
        )

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        self._pipe.send([Tick(tuple(self._engine.steps), self._engine.jobs, memory(self._engine))])
        self._engine.steps.clear()


def told(event: Event) -> Outcome | Preview:
    """What the front-end hears of it."""
    job = event.job
    if not isinstance(event, Ended):
        return preview(job.id, event.progress)
    queued = (job.started or time.monotonic()) - job.arrived
    failure = None if event.error is None else failed(event.error)
    return Outcome(job.id, event.result, failure, job.rows, max(0.0, queued), job.compute)


def tensor(task: Task, model: Prepared) -> torch.Tensor:
    """The task's image as [1, 3, H, W] in [0, 1] on the model's device."""
    image = torch.from_numpy(task.image).to(model.device).unsqueeze(0).permute(0, 3, 1, 2)  # as batches lie in memory
    return image.to(model.dtype).div_(255) if image.dtype == torch.uint8 else image.to(model.dtype)


def preview(job_id: str, progress: Progress) -> Preview:
    """Progress as it travels: plain numbers and small pictures."""
    losses = {name: float(value.mean()) for name, value in progress.losses.items()}
    images = progress.images
    if images is not None:
        factor = min(1.0, PREVIEW / max(images.shape[2:]))
        images = resized(images, (round(images.shape[2] * factor) or 1, round(images.shape[3] * factor) or 1))
    small = () if images is None else tuple(pixels(image) for image in as_bytes(images))
    return Preview(job_id, progress.step, progress.steps, losses, small)


def failed(error: Exception) -> Failure:
    """What the front-end is told of an exception; an unexpected one is logged here, where its traceback is."""
    for kind, name in FAILURES:
        if isinstance(error, kind):
            return Failure(name, str(error))
    log.error("a method failed: %s", "".join(traceback.format_exception(error)))
    return Failure("internal", f"{type(error).__name__}: {error}")


def memory(engine: Engine) -> int:
    """Bytes in use: allocated on the GPU, or the process's peak resident size."""
    devices = {model.device for model in engine.models.values() if model.device.type == "cuda"}
    if devices:
        return sum(torch.cuda.memory_allocated(device) for device in devices)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
