"""The process that workers are forked from: it imports what they need once, while the front-end imports its own.

The front-end imports no torch. Where it needs an answer from torch, `ask` forks a process for that one call.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

from ..config import StartError
from ..logs import LogSettings, configure, current

P = ParamSpec("P")
T = TypeVar("T")

# Modules that the process imports before it forks. torch itself would import the first of them at its first gradient.
PRELOADED = ("torch.fx.experimental.symbolic_shapes", "gradserve_server.pool.worker")
END_SECONDS = 5.0  # How long a process may take to end after its answer, before it is killed.
WORKERS_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # Threads that spin at barriers take time from other workers.
    # These two keep glibc from giving memory back after every pass, only to take it again page by page.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(2 << 30),
    # Huge pages, where the system gives them on demand, save 3 % of a pass.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
_set_for_workers = set[str]()
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
        if name not in os.environ:
            os.environ[name] = value
            _set_for_workers.add(name)


def environment_without_workers() -> dict[str, str]:
    """This process's environment without the variables that `prepare_environment` has set for workers."""
    return {name: value for name, value in os.environ.items() if name not in _set_for_workers}


def ask(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the function returns, or raises, in a process that has torch and lives only for this call.

    The function, its arguments and its result are pickled. Raises StartError if the process dies.
    """
    start()
    ours, theirs = CONTEXT.Pipe(duplex=False)
    call = partial(function, *args, **kwargs)
    process = CONTEXT.Process(target=_answer, args=(theirs, current(), call), daemon=True)
    with ours:
        try:
            with theirs:  # An open copy of the process's end would hide that it has ended.
                process.start()
            result, error = ours.recv()
        except (EOFError, ConnectionError):  # It died, or the process that it should be forked from.
            raise StartError(f"the process that was asked for {function.__name__} died; the log may say more") from None
    process.join(END_SECONDS)
    process.kill()  # A thread that a model's builder has started may never end.
    if error is not None:
        raise error
    answer: T = result
    return answer


def _answer(end: Connection, log: LogSettings, call: Callable[[], object]) -> None:
    """Runs in the process of `ask`: sends the pair of what the call returns and what it raises, one of them None."""
    configure(log)
    answer: tuple[object, Exception | None]
    try:
        answer = call(), None
    except Exception as error:
        answer = None, error
    with suppress(BrokenPipeError):  # Whoever asked may be gone.
        end.send(answer)


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
