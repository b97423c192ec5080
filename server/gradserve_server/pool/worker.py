"""A worker process: one engine on one device, and the loop that takes messages and steps the engine in turn."""

import logging
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from .. import memory
from ..engine.engine import Engine
from ..engine.events import Ended, Event
from ..engine.job import MAX_CHUNK_ROWS, Job, Steps
from ..engine.take import Key
from ..engine.timeline import Timeline
from ..logs import configure
from ..methods import TASKS
from ..models.prepared import Prepared
from ..models.preprocess import to_batch
from .frames import Unread
from .keys import Keys
from .lines import Connected, Disconnected, Lines, Received
from .outcomes import outcome_of
from .startup import begin, set_up_torch
from .wire import (
    LONG_PASS_SECONDS,
    SAME_PACKAGES,
    Beat,
    Broken,
    Cancel,
    Failure,
    Held,
    Loading,
    Noted,
    Outcome,
    Preview,
    Ready,
    Stop,
    Task,
    Tick,
    WorkerSettings,
)

log = logging.getLogger(__name__)

KEEPER = 0  # The position of the keeper's endpoint; those of the front-ends follow.
TICK_SECONDS = 0.5  # Seconds between two messages with statistics.
IDLE_SECONDS = 10.0  # So long after its last task a worker gives back the memory that its passes took.
ORPHAN_SECONDS = 60.0  # A worker ends when it has no connection for so long.
NOTED_SECONDS = 5.0  # Longest wait for the keeper's answer to what a worker loads.
NICENESS = 5  # Workers give way to the front-end, which must refuse what they cannot take.
MAX_PASSES_PER_QUERY = 4  # Most full passes whose rows a method asks for at once.


def main(settings: WorkerSettings, name: bytes, endpoints: Sequence[str], keys: Keys | None = None) -> None:
    """Runs a worker: loads and warms up its models, and serves until Stop, or until the process that started it ends.

    `endpoints`: of the keeper, and of each front-end. On another host it ends when all of them are gone for long.
    """
    configure(settings.log)
    for number in (signal.SIGINT, signal.SIGTERM):  # They reach all processes of a terminal, or of a service.
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    set_up_torch(settings.threads)
    parent = multiprocessing.parent_process()
    lines = Lines(endpoints, name, ends=None if parent is None else parent.sentinel, keys=keys)
    early: list[Received] = []  # What arrives before the models are loaded.
    try:
        engine, ready = begin(settings, lambda loading: early.extend(_tell_loading(lines, loading)))
    except Exception as error:
        lines.send(KEEPER, [Broken(str(error))])
    else:
        Worker(lines, engine, ready).serve(early)
    lines.close()


def _tell_loading(lines: Lines, loading: Loading) -> Iterator[Received]:
    """Returns when the keeper knows which model is loaded next; yields what else has arrived."""
    lines.send(KEEPER, [loading])
    end = time.monotonic() + NOTED_SECONDS
    while (left := end - time.monotonic()) > 0:
        for received in lines.wait(left):
            if received == Received(KEEPER, Noted()):
                return
            yield received


class Worker:
    """The loop between the lines and the engine."""

    def __init__(self, lines: Lines, engine: Engine, ready: Ready) -> None:
        self._lines = lines
        self._engine = engine
        self._ready = ready
        self._held: dict[str, tuple[int, Held]] = {}  # The tasks by id, each with the line that it came from.
        self._connected: set[int] = set()  # Positions of the lines that are connected.
        self._stopping = False
        self._ticked = 0.0  # Time of the last statistics.
        self._busy = 0.0  # Seconds since then in which it did not wait.
        self._told_busy = False  # Whether the keeper knows that passes run.
        self._worked = False  # Whether it had tasks since it last gave memory back.
        engine.on_pass = self._tell_pass

    def serve(self, early: Iterable[Received] = ()) -> None:
        """Takes messages, steps the engine and sends its events until Stop; blocks while there is nothing to do.

        `early`: what has arrived already.
        """
        self._take_all(early)
        while not self._stopping:
            self._accept(block=self._engine.idle)
            self._gather()
            if time.monotonic() - self._ticked > TICK_SECONDS:
                self._tick()  # It comes after a look at what has arrived, so that all of that is told.
            began = time.monotonic()
            self._tell_events(self._engine.step())
            self._busy += time.monotonic() - began

    def _accept(self, block: bool) -> None:
        """Takes all messages that are there. If `block`, waits for one, and sends statistics meanwhile."""
        if not block:
            self._take_all(self._lines.arrived())
            return
        while not self._take_all(self._lines.wait(self._idle_wait_seconds())):
            if not self._connected:
                self._stopping = True
                return
            if not self._has_news:
                self._worked = False
                memory.give_back()
            self._tick()

    @property
    def _has_news(self) -> bool:
        """Whether there is something to tell in the next statistics."""
        return bool(self._engine.passes) or self._told_busy

    def _idle_wait_seconds(self) -> float | None:
        """How long to wait for a message before something else is due; None waits for ever.

        What may be due: the next statistics, giving memory back, or ending since nobody connects any more.
        """
        if not self._connected:
            return ORPHAN_SECONDS
        if self._has_news:
            return TICK_SECONDS
        return IDLE_SECONDS if self._worked else None

    def _gather(self) -> None:
        """Waits for more jobs while that is worth it."""
        while not self._stopping and (left := self._engine.worth_waiting()) > 0:
            if not self._take_all(self._lines.wait(left)):
                return

    def _take_all(self, arrived: Iterable[Received]) -> int:
        """Takes messages; returns how many."""
        count = 0
        for line, message in arrived:
            self._take(line, message)
            count += 1
        return count

    def _take(self, line: int, message: object) -> None:
        match message:
            case Task():
                began = time.monotonic()
                self._submit(line, message)
                self._busy += time.monotonic() - began
            case Cancel():
                self._cancel(message.id)
            case Unread():
                reason = f"a worker cannot read the request ({message.reason}); {SAME_PACKAGES}"
                self._lines.send(line, [Outcome(message.id, failure=Failure("unread", reason))])
            case Connected():
                self._connected.add(line)
                self._lines.send(line, [replace(self._ready, sent=time.monotonic())])
            case Disconnected():
                self._connected.discard(line)
                for task_id in [each for each, (of, _) in self._held.items() if of == line]:
                    self._cancel(task_id)
            case Stop():
                self._stopping = True

    def _cancel(self, task_id: str) -> None:
        if self._held.pop(task_id, None):
            self._engine.cancel(task_id)

    def _submit(self, line: int, task: Task) -> None:
        self._worked = True
        who = task.caller, task.weight, task.priority
        self._held[task.id] = line, Held(*who, task.model, task.precision, task.alone, task.cost)
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
                timeline=Timeline() if task.timed else None,
                room=(lambda: self._engine.fitting(key, task.deadline)) if limited else (lambda: MAX_CHUNK_ROWS),
            )
        )

    def _tell_events(self, events: Sequence[Event]) -> None:
        """Sends each line the outcomes and previews of its tasks."""
        messages: dict[int, list[Outcome | Preview]] = {}
        for event in events:
            held = self._held.pop(event.job.id, None) if isinstance(event, Ended) else self._held.get(event.job.id)
            if held is not None:
                messages.setdefault(held[0], []).append(outcome_of(event))
        for line, group in messages.items():
            self._lines.send(line, group)

    def _tell_pass(self, expected: float) -> None:
        """Tells the keeper of a pass that begins, where the keeper needs that to notice that the pass is stuck."""
        if not self._told_busy or not expected or expected > LONG_PASS_SECONDS:
            self._told_busy = True
            self._lines.send(KEEPER, [Beat(expected)])

    def _tick(self) -> None:
        engine, self._ticked = self._engine, time.monotonic()
        progress = engine.progress()
        busy = self._busy - engine.read_seconds  # Speeds, which are those of passes, are learned from the rest.
        tick = Tick(tuple(engine.passes), engine.jobs, memory_of(engine), busy, progress, engine.cancelled_rows)
        held = [(line, each._replace(done=progress.get(name, 0.0))) for name, (line, each) in self._held.items()]
        for line in range(len(self._lines)):
            others = tuple(each for of, each in held if of != line) if line != KEEPER else ()
            self._lines.send(line, [replace(tick, others=others)])
        engine.passes.clear()
        engine.cancelled_rows, engine.read_seconds, self._busy = 0, 0.0, 0.0
        self._told_busy = engine.jobs > 0


def tensor(task: Task, model: Prepared) -> torch.Tensor:
    """The task's images as [n, 3, H, W] in [0, 1] on the model's device."""
    return to_batch(task.image if task.image.ndim == 4 else task.image[None], model.device, model.dtype)


def memory_of(engine: Engine) -> int:
    """Bytes allocated on the GPU; on a CPU the peak resident size of the process."""
    devices = {model.device for model in engine.models.values() if model.device.type == "cuda"}
    if devices:
        return sum(torch.cuda.memory_allocated(device) for device in devices)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
