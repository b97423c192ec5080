"""The process that workers are forked from: it imports what they need once, while the front-end imports its own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver

# torch imports the first at its first gradient.
PRELOADED = ("torch.fx.experimental.symbolic_shapes", "gradserve_server.pool.worker")
WORKERS_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning at barriers starves the others
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),  # or glibc gives memory back after every pass, and takes it page by page
    "MALLOC_TRIM_THRESHOLD_": str(2 << 30),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # huge pages where the system gives them on demand: 3 % of a pass
}
CONTEXT = multiprocessing.get_context("forkserver")


def start(*, torchvision: bool = False) -> None:
    """Starts it and returns at once; a second call does nothing. It ends with this process.

    `torchvision`: whether workers will need it too; importing it takes as long as importing torch.
    Importing torch touches no GPU and starts no threads but those of OpenBLAS, which renews them after a fork.
    """
    prepare_environment()
    CONTEXT.set_forkserver_preload(["torchvision"] * torchvision + [*PRELOADED])
    with ignoring_interrupts():
        forkserver.ensure_running()


def prepare_environment() -> None:
    """What processes that compute should inherit, unless the user has set it."""
    for name, value in WORKERS_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """A process started inside ignores Ctrl-C from its first moment; only the front-end stops workers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
