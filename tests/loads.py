"""Puts a load on a server as `gradserve bench` does; and pins its processes, so that rates mean something."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import psutil

from gradserve.load.figures import LoadFigures, figures
from gradserve.load.loops import Loop, record
from gradserve.load.mix import MixEntry
from gradserve.load.sender import Sender
from gradserve.transport.channel import Endpoint


class ServerProcesses(Protocol):
    """What is asked of a `serving.Server`."""

    process: psutil.Process

    @property
    def workers(self) -> Sequence[psutil.Process]:
        """Its worker processes."""

    @property
    def front_ends(self) -> Sequence[psutil.Process]:
        """Its front-end processes, beside `process`."""


async def loaded(
    address: str,
    mix: Sequence[MixEntry],
    pictures: Sequence[bytes],
    loop: Loop,
    *,
    deadline: float = 60.0,
    connections: int = 4,
    token: str | None = None,
) -> LoadFigures:
    """What that load did. The deadline, in seconds, is for entries without their own; nothing is sent twice."""
    endpoint = Endpoint(address, None, token, retries=0, connections=connections)
    async with Sender(endpoint, mix, pictures, deadline=deadline) as sender:
        return figures(await record(sender, loop), mix, sender.deadlines)


@contextmanager
def pinned_apart(*servers: ServerProcesses) -> Iterator[None]:
    """The workers have the last processor, the front-ends and this process the others, if there are two or more."""
    cores = sorted(os.sched_getaffinity(0))
    others = cores[:-1] or cores
    workers = [worker for server in servers for worker in server.workers]
    front_ends = [psutil.Process(), *(each for server in servers for each in (server.process, *server.front_ends))]
    _pin({**dict.fromkeys(workers, cores[-1:]), **dict.fromkeys(front_ends, others)})
    try:
        yield
    finally:
        _pin({psutil.Process(): cores})  # A server that is started later would have this process's processors.


def _pin(processors: Mapping[psutil.Process, Sequence[int]]) -> None:
    """Every thread of each process; those that it has already would keep their processors otherwise."""
    for process, own in processors.items():
        for thread in process.threads():
            with suppress(ProcessLookupError):  # It may have ended since.
                os.sched_setaffinity(thread.id, own)
