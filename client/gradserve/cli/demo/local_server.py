"""A server of one's own for a while, as a subprocess."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

from gradserve.errors import GradserveError

_READY = re.compile(r"gradserve ready on (\S+:\d+)")
_STOP_SECONDS = 15.0


@contextmanager
def launched(arguments: Sequence[str], log: Path, timeout: float) -> Iterator[str]:
    """Start a server on a free port, give its address once it serves all models, and stop it at the end."""
    command = [sys.executable, "-m", "gradserve_server", "--strict", "--host", "127.0.0.1"]
    command += ["--port", "0", "--metrics-port", "0"]
    with log.open("w") as file:
        server = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=file, text=True)
        try:
            yield _address(server, log, timeout)
        finally:
            _stop(server)


def _address(server: subprocess.Popen[str], log: Path, timeout: float) -> str:
    """The address that the server prints when it is ready."""
    assert server.stdout is not None
    addresses: SimpleQueue[str | None] = SimpleQueue()
    threading.Thread(target=_watch, args=(server.stdout, addresses), daemon=True).start()
    try:
        address = addresses.get(timeout=timeout)
    except Empty:
        raise GradserveError(f"the server was not ready within {timeout:g} s\n{_tail(log)}") from None
    if address is None:
        code = server.wait(_STOP_SECONDS)
        raise GradserveError(f"the server ended with {code} before it was ready\n{_tail(log)}")
    return address


def _watch(lines: IO[str], addresses: "SimpleQueue[str | None]") -> None:
    for line in lines:  # All lines are read, since a full pipe would block the server.
        if match := _READY.search(line):
            addresses.put(match[1])
    addresses.put(None)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-15:]
    return "\n".join(["the end of its output:", *(f"  {line}" for line in lines)]) if lines else "it printed nothing"


def _stop(server: subprocess.Popen[str]) -> None:
    server.terminate()
    try:
        server.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
