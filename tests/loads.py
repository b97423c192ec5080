"""Puts a load on a server as `gradserve bench` does; and pins its processes, so that rates mean something."""

import os
from collections.abc import Sequence

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


def pin_apart(front_end: psutil.Process, workers: Sequence[psutil.Process]) -> None:
    """Gives the workers the last processor, and the front-end and this process the others, if there are two or more."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return
    for process in workers:
        process.cpu_affinity(cores[-1:])
    for process in (front_end, psutil.Process()):
        process.cpu_affinity(cores[:-1])
