"""Processes of a peer: started, found, and ended with all that they started."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

PATIENCE = 180.0  # Seconds until a process must have answered.


@contextmanager
def child(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A peer's process and all that it started, ended at the end."""
    command = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        own = family(process.pid)
        for each in own:
            each.kill()
        psutil.wait_procs(own, PATIENCE)


def family(pid: int) -> tuple[psutil.Process, ...]:
    """A process and its descendants."""
    parent = psutil.Process(pid)
    return (parent, *parent.children(recursive=True))
