"""Real workers, with their keeper's table and a front-end's pool in the test's own process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from gradserve_server.keeper.folder import endpoint
from gradserve_server.keeper.processes import WorkerProcess
from gradserve_server.keeper.workers import Workers
from gradserve_server.metrics import Metrics
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.served import ServedModels
from gradserve_server.pool.hub import Hub
from gradserve_server.pool.pool import Pool
from gradserve_server.pool.wire import WorkerSettings


class Mesh(NamedTuple):
    """A worker, its keeper's table and a front-end's pool; the last two are of this process."""

    workers: Workers
    pool: Pool

    @property
    def pid(self) -> int:
        process = self.workers.all[0].process
        assert process is not None
        return process.pid


@asynccontextmanager
async def serving(folder: Path, **facts: object) -> AsyncIterator[Mesh]:
    """One worker with a model of 8x12 pixels, `model`; `facts` are of its entry in the catalogue."""
    spec = ModelSpec(name="model", weights="random", precisions=("exact",), height=8, width=12, resize=8, **facts)
    endpoints = [endpoint(folder, 0), endpoint(folder, 1)]
    workers = Workers(
        [WorkerSettings((spec,), "cpu")],
        lambda settings, name: WorkerProcess.start(settings, name, endpoints),
        lambda name, messages: hub.send(name, messages),
        Metrics(),
        unavailable={},
        give_up_seconds=float("inf"),
    )
    hub, pool = Hub(endpoints[:1], workers.on_message, workers.on_lost), Pool(endpoints[1:])
    try:
        async with asyncio.timeout(120):
            pool.serve(ServedModels((await workers.start()).cards))
            while not pool.members:
                await asyncio.sleep(0.01)
        yield Mesh(workers, pool)
    finally:
        pool.close()
        await workers.stop()
        hub.close()
