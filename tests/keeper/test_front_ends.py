"""Several front-ends on one port: one that is killed costs only its own calls, and the counts stay right."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Self

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lengths import length
from serving import PATIENCE, Server, Stubs, picture

from gradserve import Client
from gradserve.v1 import predict_pb2

KILLS = length(2, 6)
CALLERS = 4
NEW_CONNECTIONS = 20  # Calls right after each kill, each on a connection of its own.
CALLS = 150  # Answers that plain callers have before each kill.
DIGIT = predict_pb2.PredictRequest(image=picture(0, 8, 8))
PICTURE = np.zeros((8, 8, 3), np.uint8)
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@pytest.fixture(scope="module")
def pair() -> Iterator[Server]:
    """A server with two front-ends."""
    with Server("[models.digits]\nprecisions = ['exact']", "--workers", "1", "--front-ends", "2") as server:
        assert server.address
        yield server


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def until_both_serve(server: Server) -> None:
    """Both listen again."""
    until(lambda: len(listeners(server)) == 2)


def listeners(server: Server) -> list[int]:
    port = int(server.address.rpartition(":")[2])
    return [p.pid for p in server.front_ends if any(c.laddr.port == port for c in listening(p))]


def listening(process: psutil.Process) -> list[Any]:
    try:
        return [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    except psutil.NoSuchProcess:
        return []


def counter_files(server: Server) -> set[str]:
    """Names of the files that its counters lie in."""
    return {file.name for file in server.folder.glob("gradserve-*/*.db")}


def until_all_count(server: Server) -> None:
    """Both have answered, and the keeper has heard of a pass: all have files of histograms, which come at the first."""

    def counted() -> bool:
        predict_once(server)
        return {f"histogram_{place}.db" for place in ("keeper", "front-end-0", "front-end-1")} <= counter_files(server)

    until(counted)


def predict_once(server: Server) -> None:
    """A call on a connection of its own."""
    with grpc.insecure_channel(server.address, OWN_CONNECTION) as channel:
        Stubs.of(channel).gradients.Predict(DIGIT, timeout=PATIENCE)


def test_calls_reach_both_and_both_use_the_worker(pair: Server) -> None:
    until_both_serve(pair)
    before = {process.pid: process.cpu_times().user for process in pair.front_ends}
    calls = 0
    while not all(p.cpu_times().user > before[p.pid] + 0.02 for p in pair.front_ends):
        predict_once(pair)
        calls += 1
        assert calls < 2000, "each new connection falls to either"


class Callers:
    """CALLERS callers with our client and one with plain stubs, until the end of the `with`, and what they are told."""

    def __init__(self, server: Server) -> None:
        self._server, self._ending, self._answered = server, threading.Event(), count()
        self.codes: Counter[str] = Counter()  # Those of the plain caller.
        self._pool = ThreadPoolExecutor(CALLERS + 1)
        self._calls = [*(self._pool.submit(self._ask) for _ in range(CALLERS)), self._pool.submit(self._ask_plainly)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        with self._pool:
            for each in self._calls:
                each.result(60)  # Raises what a call has raised.

    def total(self) -> int:
        """All answers, once the callers have ended."""
        return next(self._answered) + self.codes["OK"]

    def _ask(self) -> None:
        with Client(self._server.address, connections=4) as client:
            while not self._ending.is_set():
                client.predict(PICTURE)
                next(self._answered)

    def _ask_plainly(self) -> None:
        while not self._ending.is_set():
            with grpc.insecure_channel(self._server.address, OWN_CONNECTION) as channel:
                try:
                    for _ in range(50):
                        Stubs.of(channel).gradients.Predict(DIGIT, timeout=PATIENCE)
                        self.codes["OK"] += 1
                except grpc.RpcError as error:
                    self.codes[error.code().name] += 1


def kill_front_end(server: Server) -> None:
    """Kills the first one at once; new connections never fail."""
    victim = server.front_ends[0]
    victim.kill()
    victim.wait(PATIENCE)
    for _ in range(NEW_CONNECTIONS):
        predict_once(server)


def test_a_front_end_that_is_killed_costs_only_its_calls(pair: Server) -> None:
    """Callers with our client see nothing of it, and the counts are those of the callers."""
    until_all_count(pair)
    restarts = pair.metric("gradserve_front_end_restarts_total")
    counted = pair.metric("grpc_server_handled_total", grpc_method="Predict", grpc_code="OK")
    files = counter_files(pair)
    with Callers(pair) as callers:
        for _ in range(KILLS):
            until_both_serve(pair)
            until(lambda enough=callers.codes["OK"] + CALLS: callers.codes["OK"] >= enough)
            kill_front_end(pair)
    until_both_serve(pair)
    assert set(callers.codes) <= {"OK", "UNAVAILABLE"}
    # A process that is being killed still accepts connections for a moment, and loses them.
    assert callers.codes["UNAVAILABLE"] < 0.1 * callers.codes["OK"]
    assert pair.metric("gradserve_front_end_restarts_total") == restarts + KILLS
    total = callers.total() + NEW_CONNECTIONS * KILLS
    seen = pair.metric("grpc_server_handled_total", grpc_method="Predict", grpc_code="OK") - counted
    # A front-end may have counted an answer that its end kept from being sent: at most one for each caller and kill.
    assert total <= seen <= total + KILLS * (CALLERS + 1)
    assert pair.metric("gradserve_jobs_in_flight") == 0
    assert counter_files(pair) == files, "however often one is started again"


def test_each_front_end_says_whether_it_serves(pair: Server) -> None:
    until_both_serve(pair)
    for _ in range(10):
        with grpc.insecure_channel(pair.address, OWN_CONNECTION) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_another_server_cannot_take_part_in_the_port(pair: Server) -> None:
    port = pair.address.rpartition(":")[2]
    for more in ((), ("--front-ends", "2")):
        with Server("[models.digits]", "--workers", "1", "--port", port, *more) as other:
            assert other.process.wait(PATIENCE) == 2
            assert f"cannot listen on 127.0.0.1:{port}" in other.log()


def test_the_end_of_the_keeper_ends_all(pair: Server) -> None:
    """The last test of this server."""
    family = pair.process.children(recursive=True)
    pair.process.kill()
    gone, alive = psutil.wait_procs(family, PATIENCE)
    assert not alive
    assert len(gone) >= 4


def test_a_unix_socket_has_one_front_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = f'[server]\nhost = "unix:{tmp_path_factory.mktemp("x")}/s"\nfront_ends = 2\n[models.digits]'
    with Server(config) as server:
        assert server.process.wait(PATIENCE) == 2
        assert "a unix socket belongs to one process" in server.log()
