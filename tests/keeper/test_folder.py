"""The folder of a server's sockets and counters: nothing of it stays behind."""

import signal
import subprocess
import sys
from pathlib import Path

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
