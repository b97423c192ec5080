"""A process that the keeper keeps running: it is started again when it has ended, after a pause that grows."""

import asyncio
import logging
import random
import secrets
import time
from contextlib import suppress
from typing import Any, Protocol

from . import restarts
from .processes import Process

log = logging.getLogger(__name__)

LAST_WORDS_SECONDS = 0.5  # How long the last messages of a process may take.


class Owner(Protocol):
    """Starts the processes of a place, and decides what follows when one has ended."""

    async def start_one(self, kept: Any, /) -> Process:
        """Starts a process."""

    def on_end(self, kept: Any, code: int, /) -> bool:
        """Notes that the process has ended with that exit code; returns whether a pause follows."""

    def on_failure(self, kept: Any, error: Exception, /) -> bool:
        """Notes that none could be started; returns whether a pause follows."""


class Kept:
    """One process after the other in the same place."""

    def __init__(self, label: str) -> None:
        """`label`: what log lines call it."""
        self.label = label
        self.name = b""  # The present process's name on the hub.
        self.process: Process | None = None  # None while none runs.
        self.ready_since: float | None = None
        self.deaths = 0  # In a row.
        self.gone = asyncio.Event()  # Set when the hub has lost it.
        self._task: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return f"{self.label} (process {self.process.pid})" if self.process else self.label

    def keep(self, owner: Owner) -> None:
        """Starts a process, and another one whenever it has ended, until `release`."""
        self._task = asyncio.create_task(self._keep(owner))

    def release(self) -> None:
        """Starts no further process; one that runs goes on."""
        if self._task and not self._task.cancelling():  # A second cancel would interrupt the clean-up of a start.
            self._task.cancel()

    async def released(self) -> None:
        """Returns when nothing is being started any more, after `release`."""
        if self._task:
            await asyncio.wait([self._task])

    async def _keep(self, owner: Owner) -> None:
        while True:
            try:
                pausing = await self._run(owner)
            except Exception:
                log.exception("a fault while keeping %s running", self)
                pausing = True
            self.process = None
            seconds = self._pause() if pausing else 0.0
            self.ready_since = None
            await asyncio.sleep(seconds)

    async def _run(self, owner: Owner) -> bool:
        """Runs one process from its start to its end; returns whether a pause follows."""
        self.name = f"{self.label.replace(' ', '-')}-{secrets.token_hex(6)}".encode()
        self.gone.clear()
        try:
            self.process = await owner.start_one(self)
        except Exception as error:
            return owner.on_failure(self, error)
        code = await self.process.wait()
        with suppress(TimeoutError):  # Its last messages may say why it ends.
            await asyncio.wait_for(self.gone.wait(), LAST_WORDS_SECONDS)
        return owner.on_end(self, code)

    def _pause(self) -> float:
        """Counts a death; returns the seconds until the next start."""
        ready_seconds = 0.0 if self.ready_since is None else time.monotonic() - self.ready_since
        self.deaths = restarts.deaths_in_a_row(self.deaths, ready_seconds)
        seconds = restarts.pause(self.deaths, random.random())
        log.error("%s is started again %s", self.label, f"in {seconds:.1f} s" if seconds else "at once")
        return seconds
