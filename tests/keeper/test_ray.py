"""Workers that Ray places on nodes, all on this machine: they die, and their nodes do, and no answer is missed."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import psutil
import pytest
from lengths import length
from ports import free_ports
from ray_cluster import RayNodes, ray_nodes
from serving import Server

from gradserve import Client
from gradserve_server.config import PoolSettings, StartError
from gradserve_server.keeper.ray_workers import RayCluster

pytest.importorskip("ray")

PICTURE = np.zeros((8, 8, 3), np.uint8)
CALLERS = 3
STOPPED_SECONDS = length(6, 10)
CONFIG = """
[server]
front_ends = 2
[pool]
engine = "ray"
workers = 2
device = "cpu"
listen = "127.0.0.1:{port}"
[models.digits]
precisions = ["exact"]
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    """Three nodes with one processor each."""
    with ray_nodes(3) as nodes, pytest.MonkeyPatch.context() as patch:
        for name, value in nodes.environment.items():
            patch.setenv(name, value)
        yield nodes


@pytest.fixture(scope="module")
def server(cluster: RayNodes) -> Iterator[Server]:
    """A server with two workers on it."""
    with Server(CONFIG.format(port=free_ports(3)[0])) as server:
        assert server.address
        yield server
        assert server.stop() == 0
        assert not actors(), "no worker is left behind"


def actors() -> list[psutil.Process]:
    """The processes of workers."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            if "ray::WorkerActor" in " ".join(process.info["cmdline"] or ()):
                found.append(process)
    return found


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too late"
        time.sleep(0.1)


def all_ready(server: Server) -> None:
    until(lambda: server.metric("gradserve_workers_ready") == 2)


@contextmanager
def load(server: Server) -> Iterator[list[float]]:
    """Callers who ask all the time; what a call raises is raised at the end. Gives the times of the answers."""
    answered, ending = list[float](), threading.Event()

    def ask() -> None:
        with Client(server.address, connections=2, retries=0) as client:
            while not ending.is_set():
                client.predict(PICTURE)
                answered.append(time.monotonic())

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(ask) for _ in range(CALLERS)]
        try:
            until(lambda: len(answered) > 10)
            yield answered
            count = len(answered)
            until(lambda: len(answered) > count + 10)
        finally:
            ending.set()
        for caller in callers:
            caller.result(60)


def test_a_worker_that_is_killed_is_placed_again(server: Server) -> None:
    all_ready(server)
    restarts = server.metric("gradserve_worker_restarts_total")
    with load(server):
        actors()[0].kill()
        until(lambda: server.metric("gradserve_worker_restarts_total") == restarts + 1)
    all_ready(server)


def test_a_worker_that_is_stopped_holds_nobody_up(server: Server) -> None:
    all_ready(server)
    with load(server) as answered:
        stopped = actors()[0]
        stopped.send_signal(signal.SIGSTOP)
        try:
            time.sleep(STOPPED_SECONDS)
            count = len(answered)
            until(lambda: len(answered) >= count + CALLERS)
        finally:
            stopped.send_signal(signal.SIGCONT)
        all_ready(server)


def test_a_front_end_that_is_killed_finds_the_workers_with_their_models(server: Server) -> None:
    all_ready(server)
    before = {process.pid for process in actors()}
    victim = server.front_ends[0]
    victim.kill()
    victim.wait(90)  # A process that is being killed still accepts connections for a moment, and loses them.
    until(lambda: len(server.front_ends) == 2)
    with load(server):
        pass
    assert {process.pid for process in actors()} == before


def test_the_workers_of_a_node_that_is_gone_run_on_another(server: Server, cluster: RayNodes) -> None:
    all_ready(server)
    restarts = server.metric("gradserve_worker_restarts_total")
    with load(server):
        used = {process.ppid() for process in actors()}
        cluster.remove(next(i for i, raylet in enumerate(cluster.raylets) if raylet in used))
        until(lambda: server.metric("gradserve_worker_restarts_total") == restarts + 1)
    all_ready(server)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE is not token"),
        ({"RAY_ADDRESS": "nonsense"}, "there is no cluster: start one with `ray start --head`"),
    ],
)
def test_what_is_missing_is_told(environment: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    pool = PoolSettings(engine="ray", workers=1, device="cpu", listen="127.0.0.1:7000")
    with pytest.raises(StartError, match=told):
        RayCluster(pool, None)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"engine": "ray"}, "engine ray needs listen"),
        ({"engine": "ray", "listen": "127.0.0.1:7000", "workers": 2}, "engine ray needs listen"),
        ({"listen": "127.0.0.1:7000"}, "listen is for engine ray"),
        ({"engine": "ray", "listen": "tcp://127.0.0.1:7000", "workers": 2, "device": "cpu"}, "listen"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        PoolSettings(**settings)
