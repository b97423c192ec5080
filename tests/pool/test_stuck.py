"""A pass that does not end, in a real worker."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.pool import watchdog
from gradserve_server.pool.pool import Pool
from gradserve_server.pool.wire import Outcome, Task, WorkerSettings

LEGAL_SECONDS = 6.0  # of a pass: more than a worker may be silent


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """While this file exists, passes do not end."""
    return tmp_path / "held"


@asynccontextmanager
async def serving(file: Path) -> AsyncIterator[Pool]:
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
    pool = Pool([WorkerSettings((spec,), "cpu")])
    try:
        async with asyncio.timeout(120):
            await pool.start()
        yield pool
    finally:
        await pool.close()


async def predicted(pool: Pool, name: str) -> np.ndarray:
    image = np.full((8, 12, 3), 0.5, np.float32)
    async with aclosing(pool.stream(Task(name, "predict", "held", image))) as stream:
        outcome = await anext(stream)
    assert isinstance(outcome, Outcome)
    assert outcome.failure is None
    return np.asarray(outcome.result.logits)


async def test_a_stuck_pass_is_killed_and_its_task_runs_again_but_a_long_one_is_not(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with asyncio.timeout(120), serving(file) as pool:
        calm = await predicted(pool, "calm")
        pids = pool.pids

        file.touch()
        long = asyncio.create_task(predicted(pool, "long"))
        await asyncio.sleep(LEGAL_SECONDS)
        assert pool.members, "it speaks while its pass runs"
        assert pool.members[0].beat.pass_seconds > LEGAL_SECONDS - 2
        file.unlink()
        assert np.array_equal(await long, calm)
        assert pool.pids == pids
        assert caplog.text == ""

        monkeypatch.setattr(watchdog, "MIN_STUCK_SECONDS", 2.0)
        file.touch()
        stuck = asyncio.create_task(predicted(pool, "stuck"))
        while pool.members and pool.pids == pids:
            await asyncio.sleep(0.1)
        file.unlink()
        assert np.array_equal(await stuck, calm)
        assert f"(process {pids[0]}) has run a pass for " in caplog.text
        assert "it is killed" in caplog.text
