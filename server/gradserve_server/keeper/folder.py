"""The folder of one server's sockets and counters."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COUNTERS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # Where prometheus_client keeps the counters of several processes.
MAX_PARENT_BYTES = 60  # Of the path of the folder's parent: systems allow about 100 for the path of a socket.


@contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder that only this user can enter, until the end of the `with`.

    prometheus_client must be imported inside: from then on its counters lie in files there, which all processes of the
    server write and which outlive one that is killed. Until the keeper handles SIGTERM, that ends this process in
    order, and the folder with it.
    """
    short = len(os.fsencode(tempfile.gettempdir())) <= MAX_PARENT_BYTES
    folder = Path(tempfile.mkdtemp(prefix="gradserve-", dir=None if short else "/tmp"))
    os.environ[COUNTERS_VARIABLE] = str(folder)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield folder
    finally:
        os.environ.pop(COUNTERS_VARIABLE, None)
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def endpoint(folder: Path, place: int) -> str:
    """Where others of this machine reach the keeper (0) or a front-end (1 and more)."""
    return f"ipc://{folder}/{place}.sock"
