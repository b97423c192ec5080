"""What a real server tells on its metrics port: its health in every state, its metrics, and to many who ask half."""

import gzip
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from serving import PATIENCE, Server, Stubs, picture

from gradserve.v1 import predict_pb2
from gradserve_server.keeper.metrics_port import MAX_CONNECTIONS

HALF = b"GET /metrics HTTP/1.1\r\nHost: gradserve\r\n"
MANY = 780
PREDICT = predict_pb2.PredictRequest(image=picture(0, 8, 12))
SERVES = 200, "the server serves"


class Held:
    """A server with one worker, whose passes take as long as a file exists."""

    def __init__(self, file: Path) -> None:
        self.file = file
        config = f"""
        [server]
        drain_seconds = 300
        [models.held]
        builder = "networks:held"
        arguments = {{file = "{file}"}}
        weights = "random"
        precisions = ["exact"]
        height = 8
        width = 12
        resize = 8
        """
        self.server = Server(config, "--workers", "1", "--metrics-host", "127.0.0.1")
        self.while_loading = 0, ""

    def health(self) -> tuple[int, str]:
        try:
            with urlopen(self.server.said("metrics").replace("/metrics", "/healthz"), timeout=30) as reply:
                return reply.status, reply.read().decode().strip()
        except HTTPError as error:
            return error.code, error.read().decode().strip()

    def becomes(self, *health: object) -> None:
        until(lambda: self.health() == health)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    file = tmp_path_factory.mktemp("held") / "file"
    file.touch()
    held = Held(file)
    with held.server:
        held.server.said("metrics")
        time.sleep(1.0)
        held.while_loading = held.health()
        file.unlink()
        assert held.server.address
        yield held


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_server_that_loads_is_not_healthy(held: Held) -> None:
    assert held.while_loading == (503, "the server loads its models")
    held.becomes(*SERVES)


def test_a_server_without_a_worker_is_not_healthy(held: Held) -> None:
    (worker,) = held.server.workers
    held.file.touch()  # Its successor loads as long as the file is there.
    worker.kill()
    held.becomes(503, "no worker is ready")
    time.sleep(1.0)
    assert held.health() == (503, "no worker is ready")
    held.file.unlink()
    held.becomes(*SERVES)


def test_a_server_without_a_front_end_is_not_healthy(held: Held) -> None:
    (front_end,) = held.server.front_ends
    front_end.send_signal(signal.SIGSTOP)
    try:
        held.becomes(503, "no front-end serves")
    finally:
        front_end.send_signal(signal.SIGCONT)
    held.becomes(*SERVES)
    front_end.kill()
    held.becomes(503, "no front-end serves")
    held.becomes(*SERVES)


def test_many_half_sent_requests_keep_no_threads_and_no_connections(held: Held) -> None:
    url = urlsplit(held.server.said("metrics"))
    assert url.hostname == "127.0.0.1"
    threads = held.server.process.num_threads()
    sockets = [socket.create_connection((url.hostname, url.port or 0), timeout=PATIENCE) for _ in range(MANY)]
    for each in sockets:
        with suppress(ConnectionError):
            each.sendall(HALF)
    closed = [each for each in sockets[MAX_CONNECTIONS:] if is_closed(each)]
    assert len(closed) == MANY - MAX_CONNECTIONS
    assert held.server.process.num_threads() <= threads + 1
    for each in sockets:
        each.close()
    until(lambda: bool(answer(held)))


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side closes it, for which this waits."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def answer(held: Held) -> bytes:
    """The metrics compressed, or nothing where the port is still full."""
    with suppress(OSError), urlopen(Request(held.server.said("metrics"), headers={"Accept-Encoding": "gzip"})) as reply:
        return gzip.decompress(reply.read())
    return b""


def test_names_that_are_made_up_are_no_labels(held: Held) -> None:
    with held.server.channel() as channel:
        call = Stubs.of(channel).gradients.Predict
        assert call(PREDICT, timeout=PATIENCE).top
        for name in ("made-up", "x" * 1000):
            with pytest.raises(Exception, match="NOT_FOUND"):
                call(predict_pb2.PredictRequest(model=name, image=PREDICT.image), timeout=PATIENCE)
    labels = {"grpc_method": "Predict"}
    until(lambda: held.server.metric("grpc_server_handling_seconds_count", model="", **labels) >= 2)
    models = {s.labels["model"] for f in held.server.metrics() for s in f.samples if "model" in s.labels}
    assert models == {"", "held"}
    for name in ("grpc_server_handling_seconds_count", "gradserve_queue_seconds_count", "gradserve_step_rows_count"):
        until(lambda name=name: held.server.metric(name, model="held") >= 1)


def test_what_is_told_of_the_build_and_of_time(held: Held) -> None:
    with held.server.channel() as channel:
        assert Stubs.of(channel).gradients.Predict(PREDICT, timeout=PATIENCE).top
    until(lambda: held.server.metric("grpc_server_handling_seconds_count", model="held") >= 1)
    samples = [sample for family in held.server.metrics() for sample in family.samples]
    (build,) = [sample for sample in samples if sample.name == "gradserve_build_info"]
    assert build.value == 1
    assert all(build.labels[name] for name in ("version", "torch_version", "python_version"))
    bounds = {s.labels["le"] for s in samples if s.name == "grpc_server_handling_seconds_bucket"}
    assert {"60.0", "600.0", "+Inf"} <= bounds


def test_a_server_that_drains_is_not_healthy(held: Held) -> None:
    """The last test of this server, since it ends it."""
    held.file.touch()
    with held.server.channel() as channel:
        running = Stubs.of(channel).gradients.Predict.future(PREDICT)
        until(lambda: held.server.metric("gradserve_cost_outstanding") > 0)
        held.server.process.send_signal(signal.SIGTERM)
        held.becomes(503, "the server is stopping")
        held.file.unlink()
        assert running.result(PATIENCE).top
    assert held.server.process.wait(PATIENCE) == 0
    assert "Traceback" not in held.server.log()
