"""The port for Prometheus and probes: what a stranger may send it, and that the health it tells is true."""

import asyncio
import gzip
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from serving import PATIENCE, Server, Stubs, picture

from gradserve.v1 import predict_pb2
from gradserve_server.config import ServerSettings
from gradserve_server.keeper import metrics_port
from gradserve_server.keeper.metrics_port import MetricsPort
from gradserve_server.metrics import Metrics

HALF = b"GET /metrics HTTP/1.1\r\nHost: gradserve\r\n"
MANY = 780
PREDICT = predict_pb2.PredictRequest(image=picture(0, 8, 12))


class Opened:
    """A port without a server; `fault` is what its health says."""

    def __init__(self, folder: Path) -> None:
        self.fault = ""
        self.port = MetricsPort(ServerSettings(metrics_port=0), folder, lambda: self.fault)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", int(self.port.address.rpartition(":")[2]))

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """The head and the body of the answer, after which the connection ends."""
        reader, writer = await self.connect()
        writer.write(request)
        async with asyncio.timeout(60):
            answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return head, body

    async def get(self, path: str) -> tuple[int, bytes]:
        head, body = await self.ask(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        return int(head.split()[1]), body

    async def until_it_answers(self) -> None:
        """Returns once a connection has a place again."""
        async with asyncio.timeout(60):
            while True:
                with suppress(IndexError, ConnectionError):  # It was closed at once.
                    assert (await self.get("/healthz"))[0] == 200
                    return
                await asyncio.sleep(0.05)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    opened = Opened(tmp_path)
    await opened.port.open()
    yield opened
    opened.port.close()


async def ended(reader: asyncio.StreamReader) -> None:
    """Returns when the other side has closed the connection without a word."""
    async with asyncio.timeout(60):
        with suppress(ConnectionError):
            assert await reader.read() == b""


async def test_half_sent_requests_are_closed_after_a_time(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port, "MAX_SECONDS", 0.5)
    connections = [await opened.connect() for _ in range(metrics_port.MAX_CONNECTIONS - 1)]
    for _, writer in connections:
        writer.write(HALF)
    for reader, writer in connections:
        await ended(reader)
        writer.close()
    monkeypatch.undo()
    assert (await opened.get("/metrics"))[0] == 200


async def test_a_request_that_drips_is_closed_as_well(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port, "MAX_SECONDS", 0.5)
    reader, writer = await opened.connect()
    closed = asyncio.create_task(ended(reader))
    with suppress(ConnectionError):
        while not closed.done():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)
    await closed
    writer.close()


async def test_an_answer_that_nobody_takes_is_given_up(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port, "MAX_SECONDS", 0.5)
    monkeypatch.setattr(metrics_port, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(metrics_port, "generate_latest", lambda _: b"x" * (64 << 20))
    reader, writer = await opened.connect()
    writer.write(HALF + b"\r\n")
    await opened.until_it_answers()
    writer.close()
    assert not reader.at_eof()


async def test_connections_above_the_limit_are_closed_at_once(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port, "MAX_SECONDS", 600)
    held = [await opened.connect() for _ in range(metrics_port.MAX_CONNECTIONS)]
    for _ in range(3):
        reader, writer = await opened.connect()
        await ended(reader)
        writer.close()
    assert not any(reader.at_eof() for reader, _ in held)
    held.pop()[1].close()
    await opened.until_it_answers()
    for _, writer in held:
        writer.close()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * (metrics_port.MAX_HEAD_BYTES + 1) + b"\r\n\r\n", 431),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"HEAD /healthz HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 200),
        (b"GET /metrics?name[]=x HTTP/1.0\r\nAccept: */*;version=zz\r\n\r\n", 200),
    ],
)
async def test_what_is_answered(opened: Opened, request_: bytes, status: int) -> None:
    head, _ = await opened.ask(request_)
    assert int(head.split()[1]) == status
    assert (b"Allow: GET" in head) == (status == 405)


async def test_metrics_are_compressed_for_those_who_take_that(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port, "generate_latest", lambda _: b"all\n")
    head, body = await opened.ask(b"GET /metrics HTTP/1.1\r\nAccept-Encoding: deflate, GZIP\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    assert gzip.decompress(body) == b"all\n"
    head, body = await opened.ask(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert b"Content-Encoding" not in head
    assert body == b"all\n"


async def test_health_has_a_reason(opened: Opened) -> None:
    assert await opened.get("/healthz") == (200, b"the server serves\n")
    opened.fault = "no worker is ready"
    assert await opened.get("/healthz") == (503, b"no worker is ready\n")


def test_it_listens_on_this_machine_alone_unless_it_is_told_otherwise() -> None:
    assert ServerSettings(host="0.0.0.0").metrics_host == "127.0.0.1"


def test_nothing_says_when_a_series_began() -> None:
    metrics = Metrics()
    metrics.queue.labels("m").observe(1.0)
    samples = [sample.name for family in metrics.registry.collect() for sample in family.samples]
    assert "gradserve_queue_seconds_sum" in samples
    assert not [name for name in samples if name.endswith("_created")]


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


SERVES = 200, "the server serves"


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
    closed = [each for each in sockets[metrics_port.MAX_CONNECTIONS :] if is_closed(each)]
    assert len(closed) == MANY - metrics_port.MAX_CONNECTIONS
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
