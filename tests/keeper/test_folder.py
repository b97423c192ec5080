"""The folder of a server's sockets and counters: nothing of it stays behind."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradserve_server.keeper.folder import remove_abandoned

WAITING = """
import time
from gradserve_server.keeper.folder import own_folder
with own_folder() as folder:
    print(folder, flush=True)
    time.sleep(60)
"""


def test_sigterm_before_the_keeper_handles_it_leaves_no_folder() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    assert not folder.exists()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a path so short that a keeper makes its own in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_a_killed_keepers_folder_goes_with_the_next_start_and_a_living_ones_stays(short_path: Path) -> None:
    started = []
    try:
        for _ in range(3):
            environment = {**os.environ, "TMPDIR": str(short_path)}
            process = subprocess.Popen(
                [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True, env=environment
            )
            assert process.stdout is not None
            started.append((process, Path(process.stdout.readline().strip())))
            if len(started) == 2:
                process.kill()
                process.wait(20)
        (_, living), (_, killed), (_, newest) = started
        assert set(short_path.iterdir()) == {living, newest}
        assert killed not in (living, newest)
        (short_path / "gradserve-without-a-lock").mkdir()
        remove_abandoned(short_path)
        assert len(list(short_path.iterdir())) == 3, "it may be one that is being made"
    finally:
        for process, _ in started:
            process.kill()
            process.wait(20)
