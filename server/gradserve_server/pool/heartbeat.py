"""The heartbeats of a worker: a thread that computes nothing tells the front-end each second that the process runs."""

import threading
import time
from collections.abc import Callable, Sequence

from ..engine.engine import Engine
from ..engine.pace import RunningPass
from .watchdog import BEAT_SECONDS
from .wire import Beat


class Heartbeat:
    """Sends heartbeats from now until the process ends. Once it has an engine, they carry the age of its pass."""

    def __init__(self, send: Callable[[Sequence[object]], None]) -> None:
        self.engine: Engine | None = None
        self._send = send
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        age = PassAge(time.monotonic())
        while True:
            time.sleep(BEAT_SECONDS)
            running = self.engine.running if self.engine else None
            self._send([Beat(age.at(running, time.monotonic()), running.expected if running else 0.0)])


class PassAge:
    """How long the running pass has run, without the time in which this process or its machine was stopped."""

    def __init__(self, now: float) -> None:
        self._last = now  # The time of the last call.
        self._began: float | None = None
        self._age = 0.0

    def at(self, running: RunningPass | None, now: float) -> float:
        """Seconds; 0 without a pass. It is called at every heartbeat: what lies longer between two was a stop."""
        since, self._last = min(now - self._last, 2 * BEAT_SECONDS), now
        if running is None:
            self._began, self._age = None, 0.0
        elif running.began != self._began:
            self._began, self._age = running.began, min(now - running.began, since)
        else:
            self._age += since
        return self._age
