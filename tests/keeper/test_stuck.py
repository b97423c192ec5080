"""A pass that does not end, in a real worker."""

import asyncio
import logging
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from gradserve_server.keeper import watchdog
from gradserve_server.pool.pool import Pool
from gradserve_server.pool.wire import Outcome, Task

from .mesh import serving

LEGAL_SECONDS = 6.0  # The length of a pass, for longer than a worker may be silent.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """While this file exists, passes do not end."""
    return tmp_path / "held"


async def predicted(pool: Pool, name: str) -> np.ndarray:
    image = np.full((8, 12, 3), 0.5, np.float32)
    async with aclosing(pool.stream(Task(name, "predict", "model", image))) as stream:
        outcome = await anext(stream)
    assert isinstance(outcome, Outcome)
    assert outcome.failure is None
    return np.asarray(outcome.result.logits)


async def test_a_stuck_pass_is_killed_and_its_task_runs_again_but_a_long_one_is_not(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with asyncio.timeout(120), serving(tmp_path, builder="networks:held", arguments={"file": str(file)}) as mesh:
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
