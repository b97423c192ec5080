"""A real worker whose clock is an hour ahead of the front-end's, as on a host that has run longer."""

import asyncio
import pickle
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradserve_server.keeper import processes
from gradserve_server.methods.explain import Call, ExplainArguments
from gradserve_server.methods.targets import Target
from gradserve_server.pool.pool import Pool
from gradserve_server.pool.wire import Outcome, Task

from .mesh import serving

HOUR = 3600.0
ALLOWED_SECONDS = 0.02
BUDGET_SECONDS = 0.5
TRIES = 8


def work_an_hour_ahead(*arguments: Any) -> None:
    """What the worker's process runs. All modules of the server are imported anew, since some keep the clock."""
    written, clock = pickle.dumps(arguments), time.monotonic
    time.monotonic = lambda: clock() + HOUR
    for name in [each for each in sys.modules if each.partition(".")[0] == "gradserve_server"]:
        del sys.modules[name]
    from gradserve_server.pool.worker import main

    main(*pickle.loads(written))


async def late(pool: Pool, name: str) -> float:
    """Seconds from a task's deadline to its partial answer. It could fill many times its time."""
    image = np.full((8, 12, 3), 0.5, np.float32)
    arguments = ExplainArguments((Call("smooth_grad", {"samples": 10**6, "noise": 0.1}, Target(label=0)),))
    now = time.monotonic()
    task = Task(
        name, "explain", "model", image, arguments, arrived=now, deadline=now + BUDGET_SECONDS, allow_partial=True
    )
    async with aclosing(pool.stream(task)) as stream:
        outcome = await anext(stream)
    seconds = time.monotonic() - task.deadline
    assert isinstance(outcome, Outcome)
    assert outcome.failure is None
    assert 0 <= outcome.queue_seconds < BUDGET_SECONDS
    return seconds


async def test_a_worker_whose_clock_is_an_hour_ahead_keeps_deadlines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_work", work_an_hour_ahead)
    async with asyncio.timeout(120), serving(tmp_path, builder="networks:linear") as mesh:
        (member,) = mesh.pool.members
        delays = [await late(mesh.pool, str(i)) for i in range(TRIES)]
        assert min(delays) > -ALLOWED_SECONDS, "none is cut short"
        assert min(delays) < ALLOWED_SECONDS, "a busy machine may delay some answers, but not all"
        assert member.behind == pytest.approx(-HOUR, abs=ALLOWED_SECONDS)
