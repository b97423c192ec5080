"""A pass that does not end, in a real worker."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from gradserve_server.keeper import watchdog
from gradserve_server.keeper.folder import endpoint
from gradserve_server.keeper.processes import WorkerProcess
from gradserve_server.keeper.workers import Workers
from gradserve_server.metrics import Metrics
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.served import ServedModels
from gradserve_server.pool.hub import Hub
from gradserve_server.pool.pool import Pool
from gradserve_server.pool.wire import Outcome, Task, WorkerSettings

LEGAL_SECONDS = 6.0  # The length of a pass, for longer than a worker may be silent.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """While this file exists, passes do not end."""
    return tmp_path / "held"


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
async def serving(file: Path, folder: Path) -> AsyncIterator[Mesh]:
    spec = ModelSpec(
        name="held",
        builder="networks:held",
        arguments={"file": str(file)},
        weights="random",
        precisions=("exact",),
        height=8,
        width=12,
        resize=8,
    )
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


async def predicted(pool: Pool, name: str) -> np.ndarray:
    image = np.full((8, 12, 3), 0.5, np.float32)
    async with aclosing(pool.stream(Task(name, "predict", "held", image))) as stream:
        outcome = await anext(stream)
    assert isinstance(outcome, Outcome)
    assert outcome.failure is None
    return np.asarray(outcome.result.logits)


async def test_a_stuck_pass_is_killed_and_its_task_runs_again_but_a_long_one_is_not(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with asyncio.timeout(120), serving(file, tmp_path) as mesh:
        calm = await predicted(mesh.pool, "calm")
        pid, (worker,) = mesh.pid, mesh.workers.all

        file.touch()
        long = asyncio.create_task(predicted(mesh.pool, "long"))
        await asyncio.sleep(LEGAL_SECONDS)
        assert mesh.pool.members, "its connection is alive while its pass runs"
        assert worker.pass_seconds > LEGAL_SECONDS - 2
        file.unlink()
        assert np.array_equal(await long, calm)
        assert mesh.pid == pid
        assert caplog.text == ""

        monkeypatch.setattr(watchdog, "MIN_STUCK_SECONDS", 2.0)
        monkeypatch.setattr(watchdog, "STUCK_FACTOR", 1.0)
        file.touch()
        stuck = asyncio.create_task(predicted(mesh.pool, "stuck"))
        while worker.process is not None and mesh.pid == pid:
            await asyncio.sleep(0.1)
        file.unlink()
        assert np.array_equal(await stuck, calm)
        assert f"(process {pid}) has run a pass for " in caplog.text
        assert "it is killed" in caplog.text
