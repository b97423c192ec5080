"""The process that workers are forked from: it imports what they need once, while the front-end imports its own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver

# Modules that the process imports before it forks. torch itself would import the first of them at its first gradient.
PRELOADED = ("torch.fx.experimental.symbolic_shapes", "gradserve_server.pool.worker")
WORKERS_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # Threads that spin at barriers take time from other workers.
    # These two keep glibc from giving memory back after every pass, only to take it again page by page.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(2 << 30),
    # Huge pages, where the system gives them on demand, save 3 % of a pass.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
CONTEXT = multiprocessing.get_context("forkserver")


def start(*, torchvision: bool = False) -> None:
    """Starts the process that workers are forked from, and returns at once. A second call does nothing.

    The process ends with this one. `torchvision`: whether it imports torchvision too, which takes as long as torch.
    Importing torch touches no GPU and starts no threads but those of OpenBLAS, which renews them after a fork.
    """
    prepare_environment()
    CONTEXT.set_forkserver_preload(["torchvision"] * torchvision + [*PRELOADED])
    with ignoring_interrupts():
        forkserver.ensure_running()


def prepare_environment() -> None:
    """Sets the environment variables that workers should inherit, unless the user has set them."""
    for name, value in WORKERS_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Makes processes that are started inside ignore Ctrl-C from the first moment: only the front-end stops workers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
