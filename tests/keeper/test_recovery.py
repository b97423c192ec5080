"""Workers that stop, die while loading or cannot be started: requests are answered, and the health says who can be."""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import pairwise
from queue import SimpleQueue

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lengths import length
from serving import PATIENCE, Server, Stubs, picture, refused

from gradserve.v1 import predict_pb2
from gradserve_server.api.server import SERVICES

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
CALLERS = 4
STOPPED_SECONDS = length(3, 10)
KILLING_SECONDS = length(8, 60)
DIGIT = predict_pb2.PredictRequest(image=picture(0, 8, 8))
PREDICT = predict_pb2.PredictRequest(model="small", image=picture(0, 64, 64))


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "too late"
        time.sleep(0.05)


class Load:
    """Callers who ask all the time, until the end of the `with`, and count the answers."""

    def __init__(self, stubs: Stubs) -> None:
        self._stubs = stubs
        self._ending = threading.Event()
        self.answered: list[float] = []  # The times at which answers came.
        self._pool = ThreadPoolExecutor(CALLERS)

    def __enter__(self) -> "Load":
        self._callers = [self._pool.submit(self._ask) for _ in range(CALLERS)]
        until(lambda: len(self.answered) > CALLERS)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for caller in self._callers:
            caller.result(120)  # Raises what a call has raised.

    def _ask(self) -> None:
        while not self._ending.is_set():
            self._stubs.gradients.Predict(PREDICT)  # Without a deadline.
            self.answered.append(time.monotonic())

    def since(self, when: float) -> int:
        return sum(answered > when for answered in list(self.answered))


def all_ready(server: Server) -> None:
    until(lambda: server.metric("gradserve_workers_ready") == 2)


def test_a_stopped_worker_holds_nobody_up_and_serves_again(server: Server, stubs: Stubs) -> None:
    all_ready(server)
    beats, restarts = server.metric("gradserve_heartbeats_late_total"), server.metric("gradserve_worker_restarts_total")
    workers = server.workers
    with Load(stubs) as load:
        when = datetime.now()
        workers[0].send_signal(signal.SIGSTOP)
        try:
            until(lambda: server.metric("gradserve_workers_ready") == 1)
            time.sleep(STOPPED_SECONDS)
            assert server.metric("gradserve_workers_ready") == 1
            late = time.monotonic()
            until(lambda: load.since(late) >= CALLERS)  # Each caller has gone on.
        finally:
            workers[0].send_signal(signal.SIGCONT)
        all_ready(server)
        again = time.monotonic()
        until(lambda: load.since(again) > 10 * CALLERS)
    assert server.metric("gradserve_heartbeats_late_total") == beats + 1
    assert server.metric("gradserve_worker_restarts_total") == restarts, "nobody was killed"
    assert server.workers == workers
    name = rf"\(process {workers[0].pid}\)"
    found = re.findall(
        rf"^([\d-]+ [\d:,]+) WARNING .*{name} is not heard and gets no tasks", server.log(), re.MULTILINE
    )
    assert (datetime.strptime(found[-1], "%Y-%m-%d %H:%M:%S,%f") - when).total_seconds() < 5
    assert re.search(rf"{name} is heard again and takes tasks", server.log())


def test_deaths_of_loading_workers_neither_hold_up_nor_end_the_server(server: Server, stubs: Stubs) -> None:
    all_ready(server)
    survivor = server.workers[-1]
    with Load(stubs) as load:
        begun = time.monotonic()
        deaths = 0
        while time.monotonic() < begun + KILLING_SECONDS:
            for worker in server.workers:
                if worker != survivor:
                    with suppress(psutil.NoSuchProcess):
                        worker.kill()
                        deaths += 1
            time.sleep(0.1)
        assert server.process.is_running()
        assert server.metric("gradserve_workers_ready") == 1
    answered = [begun, *(when for when in sorted(load.answered) if when > begun)]
    longest = max(after - before for before, after in pairwise(answered))
    print(f"{deaths} kills in {KILLING_SECONDS} s; {len(answered)} answers, {longest:.1f} s at most between two")
    assert longest < 5
    assert survivor.is_running()
    assert deaths >= 3
    all_ready(server)


@contextmanager
def lone(more: str = "") -> Iterator[Server]:
    """A server with one worker."""
    with Server(f"{more}\n[models.digits]\nprecisions = ['exact']", "--workers", "1") as server:
        assert server.address
        yield server


@contextmanager
def starting_nothing(process: psutil.Process) -> Iterator[None]:
    """Lets a process open no more files, so that it can start no other ones."""
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))


def test_where_no_worker_can_be_started_requests_wait_and_the_health_says_so() -> None:
    with lone() as server, server.channel() as channel, ThreadPoolExecutor(CALLERS) as pool:
        (worker,) = server.workers
        health, predict = health_pb2_grpc.HealthStub(channel), Stubs.of(channel).gradients.Predict
        watched: SimpleQueue[int] = SimpleQueue()
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICES[0]))

        def look() -> None:
            with suppress(grpc.RpcError):
                for reply in watch:
                    watched.put(reply.status)

        def status(service: str) -> int:
            return int(health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE).status)

        threading.Thread(target=look, daemon=True).start()
        assert watched.get(timeout=PATIENCE) == SERVING
        expected = predict(DIGIT, timeout=PATIENCE).top[0]
        with starting_nothing(server.process):
            worker.kill()
            assert watched.get(timeout=PATIENCE) == NOT_SERVING
            calls = [pool.submit(predict, DIGIT) for _ in range(CALLERS)]
            until(lambda: server.log().count("no new worker can be started") >= 3, 30)
            assert {status(service) for service in ("", *SERVICES)} == {NOT_SERVING}
            assert not any(call.done() for call in calls)
        answers = [call.result(120).top[0] for call in calls]
        assert watched.get(timeout=PATIENCE) == SERVING
        assert {status(service) for service in ("", *SERVICES)} == {SERVING}
        watch.cancel()
        assert all(abs(answer.logit - expected.logit) <= 1e-4 * abs(expected.logit) for answer in answers)
        assert server.metric("gradserve_worker_restarts_total") == 1
        assert server.metric("gradserve_workers_ready") == 1
        assert "is ready in the place of one that died" in server.log()


def test_after_a_long_time_without_a_worker_the_server_ends() -> None:
    with lone("[pool]\ngive_up_seconds = 2") as server, server.channel() as channel:
        predict = Stubs.of(channel).gradients.Predict
        predict(DIGIT, timeout=PATIENCE)
        (worker,) = server.workers
        with starting_nothing(server.process):
            worker.kill()
            with pytest.raises(grpc.RpcError) as caught:
                predict(DIGIT, timeout=PATIENCE)
            failure = refused(caught.value)
            assert server.process.wait(PATIENCE) == 1
        assert (failure.code, failure.reason) == ("UNAVAILABLE", "WORKER_LOST")
        assert failure.text == "no worker has become ready for a long time; the server ends"
        assert "no worker has been ready for 2 s: the server gives up" in server.log()
