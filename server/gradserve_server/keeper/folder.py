"""The folder of one server's sockets and counters."""

import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..metrics import COUNTERS_VARIABLE, count_in_memory, count_in_place

MAX_PARENT_BYTES = 60  # Of the path of the folder's parent: systems allow about 100 for the path of a socket.
PREFIX, LOCK = "gradserve-", "lock"


@contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder that only this user can enter, until the end of the `with`.

    Metrics that are made inside lie in files there, as those of all processes of the server do, and outlive one that
    is killed. Until the keeper handles SIGTERM, that ends this process in order, and the folder with it. A keeper that
    is killed leaves its folder to the next server's start.
    """
    short = len(os.fsencode(tempfile.gettempdir())) <= MAX_PARENT_BYTES
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=None if short else "/tmp"))
    remove_abandoned(folder.parent)
    os.environ[COUNTERS_VARIABLE] = str(folder)
    count_in_place("keeper")
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with (folder / "unlocked").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "unlocked").rename(folder / LOCK)  # Nobody sees it under this name before it is locked.
            yield folder
    finally:
        os.environ.pop(COUNTERS_VARIABLE, None)
        count_in_memory()
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def remove_abandoned(parent: Path) -> None:
    """Removes the folders of this user's servers whose keeper was killed: nobody holds their lock any more."""
    for lock in parent.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError):  # Another user's, or a living keeper's, or somebody else removes it now.
            if lock.parent.lstat().st_uid == os.getuid():
                with lock.open() as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(lock.parent, ignore_errors=True)


def endpoint(folder: Path, place: int) -> str:
    """Where others of this machine reach the keeper (0) or a front-end (1 and more)."""
    return f"ipc://{folder}/{place}.sock"
