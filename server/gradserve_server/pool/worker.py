"""A worker process: one engine on one device, a thread that reads the pipe, and the loop that runs the engine."""

import logging
import os
import queue
import resource
import socket
import sys
import threading
import time
import traceback

import torch

from ..config import LOG_FORMAT
from ..engine.engine import Engine
from ..engine.events import Ended, Event, ModelFailed, NotFinite, OutOfMemory
from ..engine.job import MAX_CHUNK_ROWS, Job, Progress, Steps, TimeUp
from ..engine.objective import NotApplicable
from ..engine.take import Key
from ..methods import TASKS
from ..methods.image_run import as_bytes, pixels, resized
from ..models.prepared import Prepared
from ..models.preprocess import to_batch
from .heartbeat import Heartbeat
from .pipe import Pipe
from .startup import begin
from .wire import (
    Broken,
    Cancel,
    Failure,
    FailureKind,
    Loading,
    Outcome,
    Preview,
    Stop,
    Task,
    Tick,
    WorkerSettings,
)

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5  # Seconds between two messages with statistics.
PREVIEW_SIDE = 160  # Pixels of a preview's longer side.
NICENESS = 5  # Workers give way to the front-end, which must refuse what they cannot take.
MAX_PASSES_PER_QUERY = 4  # Most full passes whose rows a method asks for at once.
FAILURES: tuple[tuple[type[Exception], FailureKind], ...] = (  # Kinds of failures by the exception.
    (TimeUp, "deadline"),
    (NotApplicable, "refused"),
    (NotFinite, "not_finite"),
    (ModelFailed, "model_failed"),
    (OutOfMemory, "out_of_memory"),
)


def main(end: socket.socket, settings: WorkerSettings) -> None:
    """Runs a worker: loads and warms up its models, sends Ready, and serves until Stop or the front-end's end."""
    pipe = Pipe(end)
    heartbeat = Heartbeat(pipe.send)
    logging.basicConfig(format=LOG_FORMAT, stream=sys.stderr, level=settings.log_level)
    os.nice(NICENESS)
    torch.set_num_threads(settings.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    try:
        engine, ready = begin(settings, lambda name: pipe.send([Loading(name)]))
    except Exception as error:
        pipe.send([Broken(str(error))])
        pipe.close()
        return
    heartbeat.engine = engine
    pipe.send([ready])
    Worker(pipe, engine).serve()


class Worker:
    """The loop between the pipe and the engine."""

    def __init__(self, pipe: Pipe, engine: Engine) -> None:
        self._pipe = pipe
        self._engine = engine
        self._inbox: queue.SimpleQueue[Task | Cancel | Stop] = queue.SimpleQueue()
        self._stopping = False
        self._ticked = 0.0  # Time of the last statistics.
        self._busy = 0.0  # Seconds since then in which it did not wait.

    def serve(self) -> None:
        """Takes messages, steps the engine and sends its events until Stop; blocks while there is nothing to do."""
        threading.Thread(target=self._read, daemon=True).start()
        while not self._stopping:
            self._accept(block=self._engine.idle)
            self._gather()
            began = time.monotonic()
            if events := self._engine.step():
                self._pipe.send([outcome_of(event) for event in events])
            self._busy += time.monotonic() - began
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
            os._exit(0)  # The front-end is gone.
        except Exception:
            log.exception("a task cannot be read")
            os._exit(1)  # No later message can be read either; the pool starts a new worker.

    def _accept(self, block: bool) -> None:
        """Takes all messages that are there. If `block`, waits for one, and sends statistics meanwhile."""
        while block or not self._inbox.empty():
            try:
                message = self._inbox.get(timeout=TICK_SECONDS if block and self._engine.passes else None)
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
            began = time.monotonic()
            self._submit(message)
            self._busy += time.monotonic() - began
        elif isinstance(message, Cancel):
            self._engine.cancel(message.id)
        else:
            self._stopping = True

    def _submit(self, task: Task) -> None:
        model = self._engine.models[task.model]
        height, width = task.image.shape[-3:-1]
        key = Key(task.model, task.precision, height, width, "image")
        # A job that may answer with less asks for few rows at once, so that it has something when its time is up.
        limited = task.allow_partial and task.deadline < float("inf") and not task.alone

        def begin(job: Job) -> Steps:
            return TASKS[task.rpc](job, tensor(task, model), task.arguments)

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
                chunk=1 if task.alone else self._engine.limit(key) * MAX_PASSES_PER_QUERY,
                alone=task.alone,
                caller=task.caller,
                weight=task.weight,
                least_cost=task.least_cost,
                room=(lambda: self._engine.fitting(key, task.deadline)) if limited else (lambda: MAX_CHUNK_ROWS),
            )
        )

    def _tick(self) -> None:
        engine, self._ticked = self._engine, time.monotonic()
        progress = engine.progress()
        facts = self._busy, progress, engine.cancelled_rows
        self._pipe.send([Tick(tuple(engine.passes), engine.jobs, memory(engine), *facts)])
        engine.passes.clear()
        engine.cancelled_rows, self._busy = 0, 0.0


def outcome_of(event: Event) -> Outcome | Preview:
    """The message to the front-end about an event of the engine."""
    job = event.job
    if not isinstance(event, Ended):
        return preview(job.id, event.progress)
    queued = (job.started or time.monotonic()) - job.arrived
    failure = None if event.error is None else failure_of(event.error)
    return Outcome(job.id, event.result, failure, job.rows, max(0.0, queued), job.compute)


def tensor(task: Task, model: Prepared) -> torch.Tensor:
    """The task's images as [n, 3, H, W] in [0, 1] on the model's device."""
    return to_batch(task.image if task.image.ndim == 4 else task.image[None], model.device, model.dtype)


def preview(job_id: str, progress: Progress) -> Preview:
    """Progress as a message: plain numbers and small pictures."""
    losses = {name: float(value.mean()) for name, value in progress.losses.items()}
    images = progress.images
    if images is not None:
        factor = min(1.0, PREVIEW_SIDE / max(images.shape[2:]))
        images = resized(images, (round(images.shape[2] * factor) or 1, round(images.shape[3] * factor) or 1))
    small = () if images is None else tuple(pixels(image) for image in as_bytes(images))
    return Preview(job_id, progress.step, progress.steps, losses, small)


def failure_of(error: Exception) -> Failure:
    """The failure that stands for an exception. An unexpected one is logged here, with its traceback."""
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
