"""Servers whose workers are forked from a copy of one process that has imported torch, instead of a new one each.

`multiprocessing` starts a server's fork server as a new interpreter, and importing torch takes most of a server's
start. Here a process imports it once for all tests. A server that it starts has a copy of it as a child, and this copy
becomes the fork server when `multiprocessing` would start one. All else of the server is as in use; a fork server that
must be replaced is a new interpreter.

`python tests/forkservers.py` is that process; `python tests/forkservers.py serve SOCKET PID [FLAGS]` is a server of it.
"""

import atexit
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from multiprocessing import util
from runpy import run_module
from threading import Lock
from typing import IO, NoReturn

import psutil

HIGH = 500  # No file descriptor that is handed over has a number that is so high.


class ServerProcess(psutil.Process):
    """A server that `start` began; it is no child of this process."""

    def __init__(self, pid: int, starter: socket.socket) -> None:
        super().__init__(pid)
        self._starter = starter
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code when it has ended; minus a signal's number where that ended it. Raises TimeoutExpired."""
        if self._code is None:
            self._starter.settimeout(timeout)
            try:
                self._code = int(self._starter.recv(16))
            except TimeoutError:
                raise psutil.TimeoutExpired(timeout, self.pid) from None
            self._starter.close()
        return self._code


def start(flags: Sequence[str], environment: Mapping[str, str], out: IO[str], err: IO[str]) -> ServerProcess:
    """Starts `python -m gradserve_server FLAGS` with these files as its standard output and error."""
    ours, theirs = socket.socketpair()
    lock, starter = _starter()
    with lock, theirs:
        socket.send_fds(starter, [b"!"], [each.fileno() for each in (theirs, out, err)])
    send_line(ours, list(flags), dict(environment))
    return ServerProcess(int(ours.recv(16)), ours)


def send_line(connection: socket.socket, *values: object) -> None:
    """Sends these as a line of JSON."""
    connection.sendall(json.dumps(values).encode() + b"\n")


@cache
def _starter() -> tuple[Lock, socket.socket]:
    """The process that starts servers. It ends with this one."""
    from gradserve_server.pool.forking import WORKERS_ENVIRONMENT

    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            env=WORKERS_ENVIRONMENT | os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait(60)

    atexit.register(end)
    return Lock(), ours


def start_servers(requests: socket.socket) -> None:
    """Imports what workers need, and then starts a server for every request, until there are no more."""
    from gradserve_server.pool.forking import PRELOADED

    for name in ("torchvision", *PRELOADED):
        import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while files := socket.recv_fds(requests, 1, 3)[1]:
        if not os.fork():
            requests.close()
            serve_one(*files)
        for file in files:
            os.close(file)


def serve_one(caller: int, out: int, err: int) -> NoReturn:
    """Starts a server, and tells the caller the number of its process, and how that ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=caller) as telling:
        flags, environment = json.loads(telling.makefile().readline())
        pid = os.fork()
        if not pid:
            os.dup2(out, 1)
            os.dup2(err, 2)
            for file in (caller, out, err):
                os.close(file)
            become_server(flags, environment)
        os.close(out)
        os.close(err)
        with suppress(BrokenPipeError):  # The tests may have ended.
            telling.sendall(str(pid).encode())
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            telling.sendall(str(code).encode())
    os._exit(0)


def become_server(flags: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Makes this process the server, with a child that has what workers need."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        ours.close()
        become_fork_server(theirs)
    theirs.close()
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    ours.set_inheritable(True)
    command = [sys.executable, __file__, "serve", str(ours.fileno()), str(pid), *flags]
    os.execve(sys.executable, command, dict(environment))


def become_fork_server(server: socket.socket) -> NoReturn:
    """Runs the program that `multiprocessing` gives to its fork server, with its file descriptors and environment."""
    _, files, *_ = socket.recv_fds(server, 1, 8)
    if not files:
        os._exit(0)  # The server has ended before it wanted workers.
    program, numbers, environment = json.loads(server.makefile().readline())
    copies = [fcntl.fcntl(file, fcntl.F_DUPFD, HIGH) for file in files]
    server.detach()
    os.closerange(3, HIGH)
    for copy, number in zip(copies, numbers, strict=True):
        os.dup2(copy, number)
        os.close(copy)
    os.environ.clear()
    os.environ.update(environment)
    with suppress(SystemExit):
        exec(program, {"__name__": "__main__"})
    os._exit(0)  # Tidying up would first copy the memory that it shares.


def serve(fork_server: socket.socket, pid: int) -> None:
    """The server itself."""
    new_interpreter = util.spawnv_passfds

    def start_process(path: str, arguments: Sequence[str], files: Sequence[int]) -> int:
        """Gives the child the program of the first fork server; every other program runs in a new interpreter."""
        if fork_server.fileno() < 0 or "multiprocessing.forkserver" not in arguments[-1]:
            return new_interpreter(path, arguments, files)
        with fork_server:
            socket.send_fds(fork_server, [b"!"], list(files))
            send_line(fork_server, arguments[-1], list(files), dict(os.environ))
        return pid

    util.spawnv_passfds = start_process
    run_module("gradserve_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _, _, fork_server, pid, *sys.argv[1:] = sys.argv
        serve(socket.socket(fileno=int(fork_server)), int(pid))
    else:
        start_servers(socket.socket(fileno=int(sys.argv[1])))
