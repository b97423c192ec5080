"""Puts a load on a server as `gradserve bench` does; and pins its processes, so that rates mean something."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import psutil

from gradserve.load.figures import LoadFigures, figures
from gradserve.load.loops import Loop, record
from gradserve.load.mix import MixEntry
from gradserve.load.sender import Sender
from gradserve.transport.channel import Endpoint


async def loaded(
    address: str,
    mix: Sequence[MixEntry],
    pictures: Sequence[bytes],
    loop: Loop,
    *,
    deadline: float = 60.0,
    connections: int = 4,
) -> LoadFigures:
    """What that load did. The deadline, in seconds, is for entries without their own; nothing is sent twice."""
    endpoint = Endpoint(address, None, None, retries=0, connections=connections)
    async with Sender(endpoint, mix, pictures, deadline=deadline) as sender:
        return figures(await record(sender, loop), mix, sender.deadlines)


@contextmanager
def pinned_apart(front_end: psutil.Process, workers: Sequence[psutil.Process]) -> Iterator[None]:
    """The workers have the last processor, the front-end and this process the others, if there are two or more."""
    cores = sorted(os.sched_getaffinity(0))
    others = cores[:-1] or cores
    _pin({**dict.fromkeys(workers, cores[-1:]), front_end: others, psutil.Process(): others})
    try:
        yield
    finally:
        _pin({psutil.Process(): cores})  # A server that is started later would have this process's processors.


def _pin(processors: Mapping[psutil.Process, Sequence[int]]) -> None:
    """Every thread of each process; those that it has already would keep their processors otherwise."""
    for process, own in processors.items():
        for thread in process.threads():
            os.sched_setaffinity(thread.id, own)
