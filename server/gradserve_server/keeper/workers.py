"""The workers that the keeper keeps running, and which models all of them serve."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from ..config import StartError
from ..metrics import Metrics
from ..models.card import ModelCard
from ..models.served import not_served
from ..pool.wire import Beat, Broken, Loading, Noted, Ready, Serve, Stop, Tick, WorkerSettings
from . import watchdog
from .kept_worker import DEATH_CAUSES, SHORT_PASS, KeptWorker, common_models, count_passes
from .processes import Process
from .watchdog import WorkerState

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0  # Seconds that workers have to stop by themselves before they are killed.
LOST_SECONDS = 0.2  # How long after a lost connection the end of the process, if it has ended, is known for sure.


class Workers:
    """All workers of a server. `start` starts a process with a worker's settings and a name; `send` sends messages."""

    def __init__(
        self,
        settings: Sequence[WorkerSettings],
        start: Callable[[WorkerSettings, bytes], Awaitable[Process]],
        send: Callable[[bytes, Sequence[object]], None],
        metrics: Metrics,
        *,
        unavailable: Mapping[str, str],
        give_up_seconds: float,
    ) -> None:
        """`unavailable`: why models need not be tried, by name.

        When no worker has been ready for `give_up_seconds`, `given_up` is set.
        """
        self.all = [KeptWorker(each) for each in settings]
        self.unavailable = dict(unavailable)
        self.served: Serve | None = None  # What all workers serve, once that is known.
        self.given_up = asyncio.Event()
        self._start, self._send, self._metrics, self._give_up_seconds = start, send, metrics, give_up_seconds
        self._started: asyncio.Future[Serve] = asyncio.get_running_loop().create_future()
        self._unready_seconds = 0.0
        self._looking: asyncio.Task[None] | None = None

    @property
    def ready(self) -> int:
        """How many of them take tasks for the models that are served now."""
        generation = self.served.generation if self.served else 0
        return sum(each.state == "ready" and each.settings.generation == generation for each in self.all)

    async def start(self) -> Serve:
        """Starts all workers; returns what they serve once every worker is ready. Raises StartError."""
        for name, reason in self.unavailable.items():
            log.error("%s", not_served(name, reason))
        for worker in self.all:
            worker.keep(self)
        self._looking = asyncio.create_task(self._look_regularly())
        self.served = await self._started
        return self.served

    async def add(self, successor: KeptWorker) -> Mapping[str, ModelCard]:
        """Starts one more worker; returns its cards when it is ready. Raises NotJoined."""
        self.all.append(successor)
        return await successor.join(self)

    def replace(self, successors: Sequence[KeptWorker], served: Serve) -> list[KeptWorker]:
        """Serves the models of workers that were added; returns the others, which are not started again."""
        self.served = served
        old = [worker for worker in self.all if worker not in successors]
        for worker in old:
            worker.release()
        self._note_count()
        return old

    async def remove(self, workers: Sequence[KeptWorker]) -> None:
        """Ends these workers, which take no tasks any more."""
        await self._end(workers)
        self.all = [worker for worker in self.all if worker not in workers]
        self._note_count()

    async def stop(self) -> None:
        """Ends all workers."""
        if self._looking:
            self._looking.cancel()
        await self._end(self.all)

    async def _end(self, workers: Sequence[KeptWorker]) -> None:
        """Asks workers to stop, and kills those that have not after STOP_SECONDS, or at once while they load."""
        for worker in workers:
            if worker.state == "loading" and worker.process:
                worker.process.kill()
            worker.release()
            worker.state = "down"
        await asyncio.gather(*(worker.released() for worker in workers))
        processes = [worker.process for worker in workers if worker.process]
        for worker in workers:
            self._send(worker.name, [Stop()])
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*(process.wait() for process in processes))
        for process in processes:
            process.kill()
        await asyncio.gather(*(process.wait() for process in processes))

    def kill(self) -> None:
        """Ends all workers at once, and starts none of them again."""
        self._release()
        for worker in self.all:
            if worker.process:
                worker.process.kill()

    def _release(self) -> None:
        if self._looking:
            self._looking.cancel()
        for worker in self.all:
            worker.release()
            worker.state = "down"

    def on_message(self, name: bytes, message: object) -> None:
        """Takes a worker's message."""
        worker = next((each for each in self.all if each.name == name), None)
        if worker is None or worker.state == "down":
            return
        worker.lost_seconds = 0.0
        if worker.state == "lost":
            worker.state = "ready"
            log.warning("%s is heard again and takes tasks", worker)
            self._note_count()
        match message:
            case Beat():
                worker.note_pass(message.expected)
            case Tick():
                worker.note_pass(SHORT_PASS if message.jobs else None)
                worker.memory = message.memory
                self._metrics.memory.set(max(each.memory for each in self.all))
                count_passes(message, self._metrics)
            case Loading():
                worker.note_loading(message)
                self._send(name, [Noted()])
            case Ready():
                self._on_ready(worker, message)
            case Broken():
                self._on_broken(worker, message)

    def on_lost(self, name: bytes) -> None:
        """Notes that a worker's connection has ended. If its process still runs after LOST_SECONDS, it is lost."""
        for worker in self.all:
            if worker.name == name:
                worker.gone.set()
                asyncio.get_running_loop().call_later(LOST_SECONDS, self._note_lost, worker, name)

    def _note_lost(self, worker: KeptWorker, name: bytes) -> None:
        if worker.name != name or worker.state not in ("ready", "loading") or not worker.gone.is_set():
            return
        worker.lost_seconds = LOST_SECONDS
        if worker.state == "loading":
            return
        worker.state = "lost"
        self._metrics.late.inc()
        self._note_count()
        log.warning("%s is not heard and gets no tasks until it is", worker)

    def _note_count(self) -> None:
        self._metrics.workers_ready.set(self.ready)

    async def start_one(self, worker: KeptWorker) -> Process:
        """Starts a worker's process."""
        worker.state, worker.loading, worker.lost_seconds = "loading", "", 0.0
        worker.note_pass(None)
        return await self._start(worker.settings, worker.name)

    def _on_ready(self, worker: KeptWorker, ready: Ready) -> None:
        """Notes that a worker is ready, for the first time or again. The server has started when all are."""
        if worker.deaths and worker.state == "loading":
            log.warning("%s is ready in the place of one that died", worker)
            self._metrics.restarts.inc()
        worker.begin(ready)
        worker.gone.clear()  # It says Ready again whenever it has connected again.
        self._note_count()
        if not self._started.done() and self.ready == len(self.all):
            self._end_start(ready)  # With fewer, the queue would soon be full.

    def _on_broken(self, worker: KeptWorker, broken: Broken) -> None:
        """Ends the start with the error of a worker that cannot begin, or logs it if the server has started."""
        if worker.fail_to_join(broken.error):
            return
        if self._started.done():
            log.error("%s cannot begin: %s", worker, broken.error)
            return
        known = [f"model {name}: {reason}" for name, reason in self.unavailable.items()]
        self._fail_start("\n".join([*known, broken.error]))

    def on_end(self, worker: KeptWorker, code: int) -> bool:
        """Notes the end of a worker's process. In the server's start another one follows at once."""
        state, worker.state = worker.state, "down"
        self._note_count()
        at = f" while loading model {worker.loading}" if worker.loading else ""
        if worker.fail_to_join(f"a new worker died{at} {DEATH_CAUSES}; the log may say more"):
            return False
        if self._started.done():
            log.error("%s died%s (exit code %d)", worker, at, code)
            return True
        self._leave_out_fatal_model(worker, state)
        return False

    def on_failure(self, worker: KeptWorker, error: Exception) -> bool:
        """Notes that no process could be started."""
        worker.state = "down"
        text = f"no new worker can be started on {worker.settings.device} ({type(error).__name__}: {error})"
        if worker.fail_to_join(text):
            return False
        if not self._started.done():
            self._fail_start(text)
            return False
        log.error("%s", text)
        return True

    def _leave_out_fatal_model(self, worker: KeptWorker, state: WorkerState) -> None:
        """Lets a worker that died in the server's start begin again without the model that it was loading.

        If the settings are strict, or the worker was loading none, the start ends with an error.
        """
        name = worker.loading
        if not name:
            when = "while starting" if state == "loading" else "before the others were ready"
            text = f"the worker on {worker.settings.device} died {when} {DEATH_CAUSES}; the log may say more"
            self._fail_start(text)
            return
        reason = worker.leave_out()
        if worker.settings.strict:
            self._fail_start(f"model {name}: {reason}")
            return
        log.error("model %s: %s; a new worker begins without it", name, reason)

    def _fail_start(self, reason: str) -> None:
        """Ends the server's start, and starts no worker again."""
        self._started.set_exception(StartError(reason))
        self._release()

    def _end_start(self, ready: Ready) -> None:
        """Serves the models that all workers have loaded, from now on and after restarts."""
        cards, failed = common_models(self.all, ready)
        for name, reason in failed.items():
            log.error("%s", not_served(name, reason))
        if failed and not cards:
            lines = [f"model {name}: {reason}" for name, reason in (self.unavailable | failed).items()]
            self._fail_start("\n".join(lines))
            return
        for worker in self.all:
            models = tuple(spec for spec in worker.settings.models if spec.name in cards)
            worker.settings = replace(worker.settings, models=models, strict=True, served=worker.cards)
        self._started.set_result(Serve(tuple(cards.values()), self.unavailable | failed))

    async def _look_regularly(self) -> None:
        last = time.monotonic()
        while not self.given_up.is_set():
            await asyncio.sleep(watchdog.CHECK_SECONDS)
            now = time.monotonic()
            try:
                self.look(watchdog.passed(last, now))
            except Exception:
                log.exception("a look at the workers failed; the next ones follow")
            last = now

    def look(self, seconds: float) -> None:
        """Looks at all workers, so many seconds after the last look: kills those that are frozen or stuck."""
        for worker in self.all:
            if worker.process is None or worker.state == "down":
                continue
            stopped = worker.process.stopped
            worker.lost_seconds += seconds if worker.lost_seconds else 0.0
            worker.pass_seconds += seconds if worker.in_pass and not stopped else 0.0
            self._kill_if_needed(worker, worker.process, stopped)
        if not self._started.done() or self.ready:
            self._unready_seconds = 0.0
            return
        self._unready_seconds += seconds
        if self._unready_seconds >= self._give_up_seconds:
            log.critical("no worker has been ready for %.0f s: the server gives up", self._unready_seconds)
            self.given_up.set()

    def _kill_if_needed(self, worker: KeptWorker, process: Process, stopped: bool) -> None:
        age = worker.pass_seconds
        finding = watchdog.judge(worker.state, worker.lost_seconds, stopped, age, worker.expected)
        if finding == "frozen":
            log.error("%s is not heard for %.0f s and does not run: it is killed", worker, worker.lost_seconds)
        elif finding == "stuck":
            estimate = f"{worker.expected:.3g} s were expected" if worker.expected > SHORT_PASS else "none was expected"
            log.error("%s has run a pass for %.0f s (%s): it is killed", worker, age, estimate)
        if finding != "well":
            worker.state = "down"  # Set at once, since a process that waits for a device may never end.
            self._note_count()
            process.kill()
