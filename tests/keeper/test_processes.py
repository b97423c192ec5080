"""Processes as the keeper knows them."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gradserve_server.keeper.processes import WorkerProcess


@pytest.mark.parametrize(("told", "ends"), [(255, True), (0, False)])
async def test_a_worker_whose_end_nobody_can_tell_is_ended(told: int, ends: bool) -> None:
    """It would go on beside its successor, since front-ends give it tasks, and take the device's memory."""
    ours, theirs = os.pipe()
    os.close(theirs)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as running:
        process = SimpleNamespace(pid=running.pid, sentinel=ours, exitcode=told, join=lambda: None)
        assert await WorkerProcess(process).wait() == told  # type: ignore[arg-type]
        if not ends:
            assert running.poll() is None
            running.kill()
        assert running.wait(20) == -signal.SIGKILL
    os.close(ours)
