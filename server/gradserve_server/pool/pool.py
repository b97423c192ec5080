"""The pool of workers as the front-end uses it: it gives them tasks, hears them, and returns outcomes."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from ..config import StartError
from ..models.sample import difference
from ..models.served import ServedModels
from .handle import Handle
from .members import DEATH_CAUSES, Member, Pending
from .placement import Placement
from .supervisor import Supervisor
from .wire import Beat, Broken, Loading, Outcome, Preview, Ready, Task, Tick, WorkerSettings

log = logging.getLogger(__name__)


class NoWorker(Exception):
    """No worker takes tasks: the server starts or stops."""


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
        on_silent: Callable[[], None] = lambda: None,
        give_up_seconds: float = float("inf"),
    ) -> None:
        """`default`: the model of requests that name none. `unavailable`: models that no worker needs to try.

        `queue_seconds`: the longest wait of interactive requests; None takes the bound that follows from their cost.
        `on_restart` is called when a worker is ready that replaces one that died, `on_silent` when one is found silent.
        After `give_up_seconds` without a ready worker the pool sets `given_up`.
        """
        self.cards = ServedModels(unavailable=unavailable, default=default)
        self._settings = list(workers)
        self.queue_seconds = queue_seconds
        self._on_tick = on_tick
        self._on_restart = on_restart
        self._on_silent = on_silent
        self._workers: list[Member] = []
        self._placement = Placement(self._workers)
        self._supervisor = Supervisor(
            self._workers,
            spawn=self._spawn,
            on_silent=self._note_silence,
            on_lost=self._on_end,
            on_give_up=self._give_up,
            give_up_seconds=give_up_seconds,
        )
        self._supervision: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None] | None = None
        self._closing = False
        self.changed = asyncio.Event()  # Set when a worker became ready or ceased to be; whoever waits clears it.
        self.given_up = asyncio.Event()  # Set when no worker has been ready for too long.

    @property
    def members(self) -> list[Member]:
        """The workers that take tasks."""
        return self._placement.ready

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
        return [worker.handle.pid for worker in self._workers if worker.state != "down"]

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
        self._supervision = asyncio.create_task(self._supervisor.run())

    async def close(self) -> None:
        """Stops the workers; outstanding tasks fail."""
        self._end_supervision()
        self._placement.fail_all("the server is stopping")
        await asyncio.gather(*(asyncio.to_thread(worker.handle.close) for worker in self._workers))

    def kill(self) -> None:
        """Kills the workers at once; `close` follows."""
        self._end_supervision()
        for worker in self._workers:
            worker.handle.kill()

    def _end_supervision(self) -> None:
        """From now on workers that end are not replaced."""
        self._closing = True
        if self._supervision:
            self._supervision.cancel()

    async def stream(self, task: Task) -> AsyncGenerator[Outcome | Preview, None]:
        """Previews, then the outcome. Closing this cancels the task. Raises NoWorker."""
        if self._closing or self.given_up.is_set():
            raise NoWorker("the server is stopping")
        if not self.cards:
            raise NoWorker("no worker is ready yet; try again in some seconds")
        pending = Pending(task)
        try:
            self._placement.place(pending)
            while True:
                reply = await pending.replies.get()
                yield reply
                if isinstance(reply, Outcome):
                    return
        finally:
            self._placement.forget(pending)

    def _spawn(self, settings: WorkerSettings) -> Handle:
        return Handle(settings, asyncio.get_running_loop(), self._on_message, self._on_end)

    def _worker_of(self, handle: Handle) -> Member | None:
        """The worker with that process, unless the process is known to be dead."""
        return next((w for w in self._workers if w.handle is handle and w.state != "down"), None)

    def _on_message(self, handle: Handle, message: object) -> None:
        """Takes a worker's message."""
        worker = self._worker_of(handle)
        if worker is None:
            return
        self._note_voice(worker)
        match message:
            case Outcome() | Preview():
                worker.reply(message)
            case Tick():
                worker.learn(message)
                self._on_tick(message)
            case Beat():
                worker.beat = message
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
        worker.begin(ready, time.monotonic())
        if worker.deaths:
            log.warning("%s is ready in the place of one that died", worker.name)
            self._on_restart()
        self._placement.place_waiting()
        self.changed.set()
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
        try:
            worker.start(self._spawn(worker.settings), time.monotonic())
        except Exception as error:
            text = f"no new worker can be started on {worker.settings.device}: {type(error).__name__}: {error}"
            started.set_exception(StartError(text))

    def _on_end(self, handle: Handle) -> None:
        """Runs the tasks of a worker that has died again, and then replaces it."""
        worker = self._worker_of(handle)
        if worker is None or self._closing or self._failed:
            return
        self.changed.set()
        pendings, worker.pending = list(worker.pending.values()), {}
        if self._started and not self._started.done():
            worker.state = "loading"
            self._replace_at_start(self._started, worker)
            return
        now = time.monotonic()
        seconds = self._supervisor.schedule(worker, now)
        at = f" while loading model {worker.loading}" if worker.loading else ""
        when = f"in {seconds:.1f} s" if seconds else "at once"
        log.error("%s died%s with %d tasks; a new one starts %s", worker.name, at, len(pendings), when)
        self._placement.run_again(pendings)
        self._supervisor.start_due(now)

    def _note_silence(self, workers: Sequence[Member]) -> None:
        """Takes the tasks of workers that are not heard to others."""
        for worker in workers:
            worker.state = "silent"
            self._on_silent()
        self.changed.set()
        for worker in workers:
            count = len(worker.pending)
            moved = self._placement.move_from(worker)
            text = "%s is silent and gets no tasks until it speaks again; of its %d tasks %d go to others"
            log.warning(text, worker.name, count, moved)

    def _note_voice(self, worker: Member) -> None:
        """Notes that a worker has spoken; one that was silent takes tasks again."""
        worker.heard = time.monotonic()
        if worker.state == "silent":
            worker.state = "ready"
            log.warning("%s speaks again and takes tasks", worker.name)
            self._placement.place_waiting()
            self.changed.set()

    def _give_up(self) -> None:
        """Ends all tasks, since no worker is expected to be ready any more."""
        self._placement.fail_all("no worker has become ready for a long time; the server ends")
        self.given_up.set()
