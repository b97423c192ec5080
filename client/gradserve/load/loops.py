"""The open loop, whose requests come when they are due, and the closed one, whose callers wait for their answers."""

import asyncio
import time
from dataclasses import dataclass

from gradserve.load.arrivals import poisson
from gradserve.load.sender import Sample, Sender


@dataclass(frozen=True)
class OpenLoop:
    """Requests at an average rate in a second, whether or not earlier ones are answered.

    At most so many are under way; one that is due beyond them is not sent, and counted.
    """

    rate: float
    seconds: float
    warm_up: float = 0.0
    max_under_way: int = 10_000


@dataclass(frozen=True)
class ClosedLoop:
    """Callers that each send their next request when the last one is answered, until time or requests are over."""

    callers: int
    seconds: float
    warm_up: float = 0.0
    requests: int | None = None


Loop = OpenLoop | ClosedLoop


@dataclass(frozen=True)
class Recording:
    """The samples of a load, those of the warm-up too.

    begin, end: the measured time, in seconds after the start. cpu_share: CPU seconds of this process for each second.
    """

    loop: Loop
    samples: list[Sample]
    begin: float
    end: float
    most_under_way: int
    cpu_share: float


async def record(sender: Sender, loop: Loop) -> Recording:
    """Put that load on the server; returns when every request has come to its end."""
    sender.start()
    cpu = time.process_time()
    if isinstance(loop, OpenLoop):
        await _open(sender, loop)
        end = loop.warm_up + loop.seconds
    else:
        end = await _closed(sender, loop)
    cpu_share = (time.process_time() - cpu) / sender.now()
    return Recording(loop, sender.samples, loop.warm_up, end, sender.most_under_way, cpu_share)


async def _open(sender: Sender, loop: OpenLoop) -> None:
    sending: set[asyncio.Task[float]] = set()

    def ended(task: asyncio.Task[float]) -> None:
        if not task.cancelled() and not task.exception():  # A fault stays for `gather`, which raises it.
            sending.discard(task)

    for due in poisson(loop.rate, loop.warm_up + loop.seconds, sender.seed):
        early = due - sender.now()
        if early > 0:
            await asyncio.sleep(early)
        request = sender.draw()
        if len(sending) >= loop.max_under_way:
            sender.skip(request, due)
            await asyncio.sleep(0)  # Running calls can end here, even while every request is skipped.
            continue
        task = asyncio.create_task(sender.send(request, due))
        sending.add(task)
        task.add_done_callback(ended)
    await asyncio.gather(*sending)


async def _closed(sender: Sender, loop: ClosedLoop) -> float:
    """Returns the end of the measured time."""
    over, begun = loop.warm_up + loop.seconds, 0

    async def caller() -> None:
        nonlocal begun
        while (due := sender.now()) < over and (loop.requests is None or begun < loop.requests):
            begun += due >= loop.warm_up
            pause = await sender.send(sender.draw(), due)
            await asyncio.sleep(min(pause, max(over - sender.now(), 0.0)))

    await asyncio.gather(*(caller() for _ in range(loop.callers)))
    return over if loop.requests is None or begun < loop.requests else min(over, sender.now())
