"""One front-end: it serves the models that its keeper names, until the keeper tells it to stop."""

import asyncio
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress

from .. import memory
from ..config import FrontEndSettings, StartError
from ..methods.influence import index as influence_index
from ..methods.pictures import index as picture_index
from ..metrics import Metrics
from ..models.served import ServedModels, without_folders
from ..pool.keys import Keys
from ..pool.lines import Connected, Lines
from ..pool.pool import Pool
from ..pool.wire import CUT_OFF, Broken, Changed, Changing, CutOff, Drain, Hello, Serve, Serving
from .directions import DirectionStore
from .management import KeeperChanges
from .pictures import images
from .server import ApiServer

GAUGES_SECONDS = 0.5  # Between two updates of the metrics that change with time.
CROWD, CALM = 3, 2  # The least requests at once that are a crowd, and the most with which a crowd is over.
CALM_SECONDS = 2.0  # So long after a crowd the front-end gives back the memory that the requests took.
IDLE_SECONDS = 8.0  # So long after the last request it gives memory back where there was no crowd.


async def run(settings: FrontEndSettings) -> int:
    """Serves until the keeper says Drain; returns the exit code. The process ends when its standard input does."""
    allow_descriptors()
    keeper = Lines([settings.keeper], settings.name.encode())
    metrics = Metrics()
    keys = Keys(*settings.keys) if settings.keys else None
    pool = Pool(settings.endpoints, keys, default=settings.default, queue_seconds=settings.queue_seconds)
    try:
        changes = KeeperChanges(lambda message: front_end.send([message]))
        directions = DirectionStore(settings.directions, settings.limits)
        server = ApiServer(
            settings.server, settings.limits, pool, metrics, settings.callers, changes=changes, directions=directions
        )
        front_end = FrontEnd(keeper, pool, server, changes)
        return await front_end.run()
    except (OSError, StartError) as error:
        keeper.send(0, [Broken(str(error))])
        return 1
    finally:
        pool.close()
        keeper.close()


def allow_descriptors() -> None:
    """Lets this process have as many file descriptors as the system allows it, since each connection is one."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):  # Some systems tell of more than they give.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class FrontEnd:
    """A server and its pool, which follow the keeper's messages."""

    def __init__(self, keeper: Lines, pool: Pool, server: ApiServer, changes: KeeperChanges) -> None:
        self._keeper, self._pool, self._server, self._changes = keeper, pool, server, changes
        self._draining = asyncio.Event()
        self._told: Serving | None = None  # What the keeper knows of the models that are served.

    async def run(self) -> int:
        """Returns the exit code. Raises OSError where it cannot listen."""
        loop = asyncio.get_running_loop()
        for descriptor in self._keeper.descriptors:
            loop.add_reader(descriptor, self._look)
        loop.add_reader(sys.stdin.fileno(), os._exit, 1)  # The keeper has ended.
        self._look()
        serving = asyncio.create_task(self._run_server())
        background = [asyncio.create_task(each) for each in (self._update_gauges(), self._give_back_memory())]
        draining = asyncio.create_task(self._draining.wait())
        await asyncio.wait([serving, draining], return_when=asyncio.FIRST_COMPLETED)
        for task in background:
            task.cancel()
        if serving.done():
            serving.result()  # Raises what kept it from listening.
        serving.cancel()
        return 0 if await self._server.stop() else CUT_OFF

    def _look(self) -> None:
        for _, message in self._keeper.arrived():
            self._take(message)

    def _take(self, message: object) -> None:
        """Takes a message of the keeper."""
        match message:
            case Connected():
                self.send([Hello()])
                self._told = None
                self._changes.on_connected()
                self._pool.changed.set()
            case Serve():
                default = self._pool.cards.default
                if message.generation != self._pool.cards.generation or not self._pool.cards:
                    for indexes in (influence_index, picture_index):
                        indexes.hold_those_of([*self._pool.cards.values(), *message.cards])
                reasons = {name: without_folders(reason) for name, reason in message.unavailable.items()}
                self._pool.serve(ServedModels(message.cards, reasons, default, message.generation))
            case Changing() | Changed():
                self._changes.on_message(message)
            case Drain():
                if message.reason:
                    self._pool.end_tasks(message.reason)
                self._draining.set()
            case CutOff():
                self._server.cut_off()

    def send(self, messages: Sequence[object]) -> None:
        """Sends messages to the keeper, then looks for messages from it.

        Sending may use up the signal of the descriptor that some have arrived.
        """
        self._keeper.send(0, messages)
        asyncio.get_running_loop().call_soon(self._look)

    async def _run_server(self) -> None:
        """Listens once the models and a worker are there; then says SERVING while a worker is there."""
        while not (self._pool.cards and self._pool.members):
            self._pool.changed.clear()
            await self._pool.changed.wait()
        await self._server.start()
        while True:
            self._pool.changed.clear()
            await self._server.say(serving=bool(self._pool.members))
            self._tell_serving()
            await self._pool.changed.wait()

    def _tell_serving(self) -> None:
        """Tells the keeper which models are served, and which are still used, unless it knows."""
        serving = Serving(self._pool.cards.generation, self._pool.oldest)
        if serving != self._told:
            self._told = serving
            self.send([serving])

    async def _update_gauges(self) -> None:
        while True:
            self._server.admission.update_gauges()
            await asyncio.sleep(GAUGES_SECONDS)

    async def _give_back_memory(self) -> None:
        """Gives back the memory that requests took, some time after a crowd is over, or else after the last request."""
        while True:
            most, calm = 0, 0.0
            while not most or calm < (CALM_SECONDS if most >= CROWD else IDLE_SECONDS):
                await asyncio.sleep(GAUGES_SECONDS)
                now = self._server.admission.requests
                most = max(most, now)
                calm = calm + GAUGES_SECONDS if now <= (CALM if most >= CROWD else 0) else 0.0
            await asyncio.to_thread(_give_back)


def _give_back() -> None:
    images.free_blocks()
    memory.collect_and_give_back()
