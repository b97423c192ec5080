"""The processes of a server: workers, which are forked, and front-ends, which are new interpreters."""

import asyncio
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ..config import FrontEndSettings
from ..pool import forking
from ..pool.wire import WorkerSettings

# So that glibc gives large pictures and messages back to the system once they are freed, unless the user has set other
# sizes: by itself it raises them to those of the largest block so far. Two arenas, for all threads together, keep less
# free memory between blocks in use than one for each thread; the interpreter lets only one thread compute anyway.
FRONT_END_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 20),
    "MALLOC_ARENA_MAX": "2",
}
UNKNOWN_CODE = 255  # Exit code of a worker whose fork server has died, which alone could have told the real one.
FROZEN_STATES = ("T", "t", "D")  # Of a process in Linux: stopped, traced, waiting for a device.


class Process(Protocol):
    """A process that was started."""

    pid: int

    @property
    def stopped(self) -> bool:
        """Whether the system does not run it, since it is suspended or waits for a device."""

    async def wait(self) -> int:
        """Returns its exit code when it has ended."""

    def kill(self) -> None:
        """Ends it at once; it may have ended already."""


class WorkerProcess:
    """A worker on this machine."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self.pid = process.pid or 0
        self._process = process

    @classmethod
    async def start(cls, settings: WorkerSettings, name: bytes, endpoints: Sequence[str]) -> "WorkerProcess":
        """Starts it in a thread, since the process that workers are forked from may have to be started before."""
        process = forking.CONTEXT.Process(target=_work, args=(settings, name, endpoints), daemon=True)
        starting = asyncio.create_task(asyncio.to_thread(_start, process))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await starting
            process.kill()  # Nobody else knows of it.
            raise
        return cls(process)

    async def wait(self) -> int:
        """Returns its exit code when it has ended."""
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(self._process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        self._process.join()
        if self._process.exitcode == UNKNOWN_CODE:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # It may run, and would share the device with its successor.
        return self._process.exitcode or 0

    def kill(self) -> None:
        """Ends it at once; it may have ended already."""
        self._process.kill()

    @property
    def stopped(self) -> bool:
        """Whether the system does not run it."""
        return is_stopped(self.pid)


class FrontEndProcess:
    """A front-end on this machine. It ends when its standard input does, and so with the keeper."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process

    @classmethod
    async def start(cls, settings: FrontEndSettings) -> "FrontEndProcess":
        """Starts it in a group of its own, so that signals of the terminal do not reach it."""
        command = sys.executable, "-m", "gradserve_server.keeper.front_end"
        environment = FRONT_END_ENVIRONMENT | forking.environment_without_workers()
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, process_group=0, env=environment
        )
        assert process.stdin is not None, "stdin=PIPE was passed"
        process.stdin.write(settings.model_dump_json().encode() + b"\n")
        return cls(process)

    async def wait(self) -> int:
        """Returns its exit code when it has ended."""
        return await self._process.wait()

    def kill(self) -> None:
        """Ends it at once; it may have ended already."""
        with suppress(ProcessLookupError):
            self._process.kill()

    @property
    def stopped(self) -> bool:
        """Whether the system does not run it."""
        return is_stopped(self.pid)


def is_stopped(pid: int) -> bool:
    """Whether the system does not run that process. Elsewhere than on Linux that is not known, and taken for true."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in FROZEN_STATES
    except OSError:
        return sys.platform != "linux"


def _start(process: multiprocessing.process.BaseProcess) -> None:
    forking.start()
    process.start()


def _work(settings: WorkerSettings, name: bytes, endpoints: Sequence[str]) -> None:
    """What the process of a worker runs."""
    from ..pool.worker import main  # Imported here, since the keeper needs no torch.

    main(settings, name, endpoints)
