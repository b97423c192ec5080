"""The pool of workers as the front-end uses it: it places tasks, restarts workers and returns outcomes."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from ..config import StartError
from ..models.sample import difference
from ..models.served import ServedModels
from .handle import Handle
from .members import DEATH_CAUSES, Member, Pending
from .wire import (
    Broken,
    Cancel,
    Failure,
    FailureKind,
    Loading,
    Outcome,
    Preview,
    Ready,
    Task,
    Tick,
    WorkerSettings,
)

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # Most workers that run a task, if each of them dies.
MAX_RESTARTS = 5  # Most restarts of a worker that does not become ready in between.


class NoWorker(Exception):
    """No worker takes tasks: the server starts or stops, or all workers are given up."""


class Pool:
    """The workers of a server. Its methods may be called on the event loop's thread alone."""

    def __init__(
        self,
        workers: Iterable[WorkerSettings],
        *,
        default: str = "",
        unavailable: Mapping[str, str] | None = None,
        queue_seconds: float | None = None,
        on_tick: Callable[[Tick], None] = lambda tick: None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        """`default`: the model of requests that name none. `unavailable`: models that no worker needs to try.

        `queue_seconds`: the longest wait of interactive requests; None takes the bound that follows from their cost.
        """
        self.cards = ServedModels(unavailable=unavailable, default=default)
        self._settings = list(workers)
        self.queue_seconds = queue_seconds
        self._on_tick = on_tick
        self._on_restart = on_restart
        self._workers: list[Member] = []
        self._waiting: list[Pending] = []  # Tasks that wait for a worker to be ready.
        self._last_attempts: list[Pending] = []  # Tasks in their last attempt; the first runs, the others wait.
        self._started: asyncio.Future[None] | None = None
        self._closing = False
        self.given_up = asyncio.Event()  # Set when no worker is left and none will be started.

    @property
    def members(self) -> list[Member]:
        """The workers that take tasks."""
        return [worker for worker in self._workers if worker.ready]

    @property
    def outstanding(self) -> float:
        """GFLOP outstanding on all workers."""
        return sum(worker.cost for worker in self._workers)

    @property
    def memory(self) -> int:
        """Bytes in use by the worker that uses most."""
        return max((worker.memory for worker in self._workers), default=0)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.handle.pid for worker in self._workers]

    @property
    def _failed(self) -> bool:
        """Whether the start failed: the pool will only be closed."""
        started = self._started
        return started is not None and started.done() and started.exception() is not None

    async def start(self) -> None:
        """Returns when every worker has loaded and warmed up. Raises StartError."""
        self._started = asyncio.get_running_loop().create_future()
        for name, reason in self.cards.unavailable.items():
            log.error("model %s is not served: %s", name, reason)
        for settings in self._settings:
            self._workers.append(Member(settings, self._spawn(settings)))
        await self._started

    async def close(self) -> None:
        """Stops the workers; outstanding tasks fail."""
        self._closing = True
        for pending in [p for worker in self._workers for p in worker.pending.values()] + self._waiting:
            pending.replies.put_nowait(Outcome(pending.task.id, failure=Failure("lost", "the server is stopping")))
        await asyncio.gather(*(asyncio.to_thread(worker.handle.close) for worker in self._workers))

    def kill(self) -> None:
        """Kills the workers at once; `close` follows."""
        self._closing = True
        for worker in self._workers:
            worker.handle.kill()

    async def stream(self, task: Task) -> AsyncGenerator[Outcome | Preview, None]:
        """Previews, then the outcome. Closing this cancels the task. Raises NoWorker."""
        if self._closing or not self.cards or not self._workers:
            not_yet = "no worker is ready yet; try again in some seconds"
            raise NoWorker("the server is stopping" if self._closing else not_yet)
        pending = Pending(task)
        try:
            self._place(pending)
            while True:
                reply = await pending.replies.get()
                yield reply
                if isinstance(reply, Outcome):
                    return
        finally:
            self._forget(pending)

    def _place(self, pending: Pending) -> None:
        """Gives a task to the worker with the least outstanding work, or lets it wait for one."""
        ready = self.members
        if not ready:
            self._waiting.append(pending)
            return
        worker = min(ready, key=lambda each: self._seconds_ahead(each, pending.task))
        pending.worker = worker
        pending.attempts += 1
        worker.pending[pending.task.id] = pending
        worker.handle.send(pending.task)

    def _seconds_ahead(self, worker: Member, task: Task) -> tuple[float, float]:
        """The outstanding work of a worker, in seconds: what the task would wait for there, and all of it.

        Interactive tasks wait for no batch work. Workers on one device count as equally fast: speeds vary with load.
        """
        alike = [each for each in self.members if each.settings.device == worker.settings.device]
        seconds, before = 0.0, 0.0
        for pending in worker.pending.values():
            kind = pending.task.model, pending.task.precision
            each = worker.left(pending.task) * len(alike) / sum(other.speeds[kind] for other in alike)
            seconds += each
            before += each if pending.task.priority == "interactive" or task.priority == "batch" else 0.0
        return before, seconds

    def _place_again(self, pending: Pending) -> None:
        """Places a task whose worker died. Of the tasks in their last attempt only one runs at a time."""
        if pending.attempts < MAX_ATTEMPTS - 1:
            self._place(pending)
            return
        self._last_attempts.append(pending)
        if len(self._last_attempts) == 1:
            self._place(pending)

    def _forget(self, pending: Pending) -> None:
        with suppress(ValueError):
            self._waiting.remove(pending)
        if pending in self._last_attempts:
            first = self._last_attempts[0] is pending
            self._last_attempts.remove(pending)
            if first and self._last_attempts:
                self._place(self._last_attempts[0])
        worker = pending.worker
        if worker is not None and pending.task.id in worker.pending:
            del worker.pending[pending.task.id]
            worker.handle.send(Cancel(pending.task.id))

    def _spawn(self, settings: WorkerSettings) -> Handle:
        return Handle(settings, asyncio.get_running_loop(), self._on_message, self._on_end)

    def _on_message(self, handle: Handle, message: object) -> None:
        """Takes a worker's message."""
        worker = next((w for w in self._workers if w.handle is handle), None)
        if worker is None:
            return
        match message:
            case Outcome():
                pending = worker.pending.pop(message.id, None)
                if pending:
                    pending.replies.put_nowait(message)
            case Preview():
                pending = worker.pending.get(message.id)
                if pending:
                    pending.replies.put_nowait(message)
            case Tick():
                worker.learn(message)
                self._on_tick(message)
            case Loading():
                worker.loading = message.name
            case Ready():
                self._on_ready(worker, message)
            case Broken():
                self._on_broken(worker, message)

    def _on_broken(self, worker: Member, broken: Broken) -> None:
        """Ends the pool's start with the error of a worker that cannot begin, or logs it if the pool has started."""
        if self._started and not self._started.done():
            known = [f"model {name}: {reason}" for name, reason in self.cards.unavailable.items()]
            self._started.set_exception(StartError("\n".join([*known, broken.error])))
        elif not self._failed:
            log.error("a worker on %s cannot begin: %s", worker.settings.device, broken.error)

    def _on_ready(self, worker: Member, ready: Ready) -> None:
        """Gives the tasks that wait for a worker to one that is ready. The pool has started when all workers are."""
        worker.begin(ready)
        waiting, self._waiting = self._waiting, []
        for pending in waiting:
            self._place(pending)
        if self._started and not self._started.done() and all(w.ready for w in self._workers):
            self._end_start(self._started, ready)  # With fewer, the queue would soon be full.

    def _end_start(self, started: "asyncio.Future[None]", ready: Ready) -> None:
        """Serves the models that all workers have loaded, from now on and after restarts."""
        failed = {name: reason for w in self._workers for name, reason in w.unavailable.items()}
        for name, reason in failed.items():
            count = sum(name in worker.unavailable for worker in self._workers)
            part = f" (in {count} of {len(self._workers)} workers)" if count < len(self._workers) else ""
            failed[name] = reason + part
            log.error("model %s is not served: %s", name, failed[name])
        for card in ready.cards:
            reasons_by_worker = [difference(card, worker.cards.get(card.name, card)) for worker in self._workers]
            if reason := next(filter(None, reasons_by_worker), ""):
                failed[card.name] = reason
                log.error("model %s is not served: %s", card.name, reason)
        cards = [card for card in ready.cards if card.name not in failed]
        if failed and not cards:
            reasons = (self.cards.unavailable | failed).items()
            started.set_exception(StartError("\n".join(f"model {name}: {reason}" for name, reason in reasons)))
            return
        self.cards = ServedModels(cards, self.cards.unavailable | failed, self.cards.default)
        for worker in self._workers:
            models = tuple(spec for spec in worker.settings.models if spec.name in self.cards)
            worker.settings = replace(worker.settings, models=models, strict=True, served=worker.cards)
        started.set_result(None)

    def _replace_at_start(self, started: "asyncio.Future[None]", worker: Member) -> None:
        """Replaces a worker that died in the pool's start by one without the model that it was loading.

        If the settings are strict, or the worker was loading none, the start ends with an error.
        """
        name = worker.loading
        if not name:
            text = f"the worker on {worker.settings.device} died while starting {DEATH_CAUSES}; the log may say more"
            started.set_exception(StartError(text))
            return
        reason = worker.leave_out()
        if worker.settings.strict:
            started.set_exception(StartError(f"model {name}: {reason}"))
            return
        log.error("model %s: %s; a new worker begins without it", name, reason)
        worker.handle = self._spawn(worker.settings)

    def _on_end(self, handle: Handle) -> None:
        """Replaces a worker that has died, and runs its tasks again."""
        worker = next((w for w in self._workers if w.handle is handle), None)
        if worker is None or self._closing or self._failed:
            return
        worker.ready = False
        worker.failures += 1
        pendings, worker.pending = list(worker.pending.values()), {}
        if self._started and not self._started.done():
            self._replace_at_start(self._started, worker)
            return
        at = f" while loading model {worker.loading}" if worker.loading else ""
        log.error("the worker on %s died%s with %d tasks; restarting it", worker.settings.device, at, len(pendings))
        if worker.failures > MAX_RESTARTS:
            log.critical("the worker on %s is given up", worker.settings.device)
            self._workers.remove(worker)
            if not self._workers:
                pendings, self._waiting = pendings + self._waiting + self._last_attempts[1:], []
                self.given_up.set()
        else:
            self._on_restart()
            worker.handle = self._spawn(worker.settings)
        for pending in pendings:
            pending.worker = None
            if pending.attempts >= MAX_ATTEMPTS or not self._workers:
                kind: FailureKind = "crashed" if pending.attempts >= MAX_ATTEMPTS else "lost"
                text = f"its worker died {pending.attempts} times while it ran"
                pending.replies.put_nowait(Outcome(pending.task.id, failure=Failure(kind, text)))
            else:
                self._place_again(pending)
