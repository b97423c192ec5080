"""Looks at a pool's workers: it kills those that are frozen or stuck, and starts those that died again."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence

from . import restarts, watchdog
from .handle import Handle
from .members import Member
from .wire import WorkerSettings

log = logging.getLogger(__name__)


class Supervisor:
    """The life of a pool's workers after its start. `watchdog` and `restarts` have its decisions."""

    def __init__(
        self,
        workers: Sequence[Member],
        *,
        spawn: Callable[[WorkerSettings], Handle],
        on_silent: Callable[[Sequence[Member]], None],
        on_lost: Callable[[Handle], None],
        on_give_up: Callable[[], None],
        give_up_seconds: float,
    ) -> None:
        """`spawn` starts a process. `on_silent` is called with workers that were ready and are silent now.

        `on_give_up` is called when no worker has been ready for `give_up_seconds`.
        """
        self._workers = workers
        self._spawn, self._on_silent, self._on_lost, self._on_give_up = spawn, on_silent, on_lost, on_give_up
        self._give_up_seconds = give_up_seconds
        self._checked = time.monotonic()
        self._waiting_since: float | None = None  # Since when no worker is ready.

    async def run(self) -> None:
        """Looks at the workers again and again, until it gives up."""
        self._checked = time.monotonic()
        given_up = False
        while not given_up:
            await asyncio.sleep(watchdog.CHECK_SECONDS)
            try:
                given_up = self.check(time.monotonic())
            except Exception:
                log.exception("a look at the workers failed; the next ones follow")

    def check(self, now: float) -> bool:
        """One look at all workers; returns whether the server gives up."""
        away, self._checked = watchdog.away(self._checked, now), now
        for worker in self._workers:
            worker.heard = now if away else worker.heard
        findings = [(worker, self._judge(worker, now)) for worker in self._workers]
        silent = [worker for worker, finding in findings if finding == "silent" and worker.state == "ready"]
        if silent:
            self._on_silent(silent)
        for worker, finding in findings:
            if finding in ("frozen", "stuck"):
                worker.handle.kill()
                self._on_lost(worker.handle)  # Not once it is gone: a process that waits for a device may never be.
        self.start_due(now)
        any_ready = any(worker.ready for worker in self._workers)
        self._waiting_since = restarts.waiting_since(self._waiting_since, any_ready, away, now)
        if self._waiting_since is None or now - self._waiting_since < self._give_up_seconds:
            return False
        log.critical("no worker has been ready for %.0f s: the server gives up", now - self._waiting_since)
        self._on_give_up()
        return True

    def _judge(self, worker: Member, now: float) -> watchdog.Finding:
        """What a worker's heartbeats say; the log has what it is killed for."""
        silence, beat = now - worker.heard, worker.beat
        finding = watchdog.judge(worker.state, silence, beat.pass_seconds, beat.expected)
        if finding == "frozen":
            log.error("%s has been silent for %.0f s: it is killed", worker.name, silence)
        elif finding == "stuck":
            estimate = f"{beat.expected:.3g} s were expected" if beat.expected else "no such pass was run before"
            log.error("%s has run a pass for %.0f s (%s): it is killed", worker.name, beat.pass_seconds, estimate)
        return finding

    def schedule(self, worker: Member, now: float) -> float:
        """Notes a death, or a start that failed; returns the seconds until the next start."""
        worker.deaths = restarts.deaths_in_a_row(worker.deaths, worker.ready_seconds(now))
        worker.state, worker.ready_since = "down", None
        seconds = restarts.pause(worker.deaths, random.random())
        worker.due = now + seconds
        return seconds

    def start_due(self, now: float) -> None:
        """Starts the workers again whose pause is over. A start that fails is a death like others."""
        for worker in self._workers:
            if worker.state != "down" or worker.due > now:
                continue
            try:
                worker.start(self._spawn(worker.settings), now)
            except Exception as error:
                seconds = self.schedule(worker, now)
                reason = f"{type(error).__name__}: {error}"
                device = worker.settings.device
                log.error("no new worker can be started on %s (%s); next try in %.1f s", device, reason, seconds)
