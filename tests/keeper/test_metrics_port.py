"""The port for Prometheus and probes, without a server: what a stranger may send, and what is answered."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from gradserve_server.config import ServerSettings
from gradserve_server.keeper import metrics_port
from gradserve_server.keeper.metrics_port import MetricsPort
from gradserve_server.metrics import Metrics

HALF = b"GET /metrics HTTP/1.1\r\nHost: gradserve\r\n"


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
    _, writer = await opened.connect()
    writer.write(HALF + b"\r\n")
    await opened.until_it_answers()
    writer.close()


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
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", 200),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"DELETE /healthz HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 200),
        (b"GET /metrics?name[]=x HTTP/1.0\r\nAccept: */*;version=zz\r\n\r\n", 200),
    ],
)
async def test_what_is_answered(opened: Opened, request_: bytes, status: int) -> None:
    head, body = await opened.ask(request_)
    assert int(head.split()[1]) == status
    assert not (body and request_.startswith(b"HEAD"))
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
