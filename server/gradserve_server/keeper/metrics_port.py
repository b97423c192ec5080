"""The HTTP port for Prometheus and probes: GET /metrics and GET /healthz, one request a connection, nothing else."""

import asyncio
import gzip
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from ..api.transport.address import bound
from ..config import ServerSettings, join_address

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 32  # More are closed at once.
MAX_HEAD_BYTES = 8 << 10  # Of a request's first line and headers.
MAX_SECONDS = 10.0  # From the beginning of a connection to the last byte of its answer.
HEAD_END = b"\r\n\r\n"
PATHS = ("/metrics", "/healthz")
TEXT_TYPE = "text/plain; charset=utf-8"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsPort:
    """Tells the metrics of all processes of a server, and whether it serves.

    It is open to whoever reaches it, so that a connection can hold neither a thread nor the port for long.
    """

    def __init__(self, settings: ServerSettings, folder: Path, fault: Callable[[], str]) -> None:
        """`folder`: of the counters. `fault`: says why requests are not served now, or nothing. Raises OSError."""
        host, port = settings.metrics_host.strip("[]"), settings.metrics_port
        try:
            self._socket = bound(host, port)
            self._socket.listen()
        except OSError as error:
            hint = "; --metrics-port 0 takes a free port" if port else ""
            raise OSError(f"cannot listen for metrics on {join_address(host, port)}: {error}{hint}") from None
        self.address = join_address(host, self._socket.getsockname()[1])
        self._registry, self._fault = CollectorRegistry(), fault
        MultiProcessCollector(self._registry, str(folder))  # type: ignore[no-untyped-call]
        self._reading = asyncio.Lock()  # Reading all counters takes a thread's time, for one connection after another.
        self._connections = 0
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Answers from now on."""
        self._server = await asyncio.start_server(self._on_connection, sock=self._socket, limit=MAX_HEAD_BYTES)
        print(f"gradserve metrics on http://{self.address}/metrics", flush=True)

    def close(self) -> None:
        """Answers no new connections."""
        if self._server:
            self._server.close()
        self._socket.close()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections += 1
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):  # It has gone, or is too slow.
                async with asyncio.timeout(MAX_SECONDS):
                    writer.write(await self._answer(reader))
                    writer.close()
                    await writer.wait_closed()  # It is closed when all is sent.
        finally:
            writer.transport.abort()
            self._connections -= 1

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        """Reads a request's line and headers, but no body; returns the whole HTTP response."""
        try:
            head = await reader.readuntil(HEAD_END)
        except asyncio.LimitOverrunError:
            return _text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {MAX_HEAD_BYTES} bytes of headers")
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _text(HTTPStatus.BAD_REQUEST, "this port speaks HTTP/1.1")
        path = words[1].partition("?")[0]
        if path not in PATHS:
            return _text(HTTPStatus.NOT_FOUND, f"there is {' and '.join(PATHS)}")
        if words[0] == "HEAD":
            answer = await self._answer_get(path, lines)
            return answer[: answer.index(HEAD_END) + len(HEAD_END)]
        if words[0] != "GET":
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered", ("Allow", "GET, HEAD"))
        return await self._answer_get(path, lines)

    async def _answer_get(self, path: str, lines: Sequence[str]) -> bytes:
        """The answer to a GET of one of PATHS; `lines` are its headers."""
        if path == "/healthz":
            fault = self._fault()
            return _text(HTTPStatus.SERVICE_UNAVAILABLE if fault else HTTPStatus.OK, fault or "the server serves")
        encodings = [line for line in lines if line.lower().startswith("accept-encoding:")]
        async with self._reading:
            return await asyncio.to_thread(self._counted, any("gzip" in line.lower() for line in encodings))

    def _counted(self, zipped: bool) -> bytes:
        """The response with all metrics, compressed by gzip if `zipped`."""
        try:
            body = generate_latest(self._registry)
        except Exception:
            log.exception("the metrics cannot be read")
            return _text(HTTPStatus.INTERNAL_SERVER_ERROR, "the metrics cannot be read; the log says why")
        fields = [("Content-Type", METRICS_TYPE)]
        if zipped:
            return _encoded(HTTPStatus.OK, [*fields, ("Content-Encoding", "gzip")], gzip.compress(body))
        return _encoded(HTTPStatus.OK, fields, body)


def _text(status: HTTPStatus, text: str, *fields: tuple[str, str]) -> bytes:
    return _encoded(status, [("Content-Type", TEXT_TYPE), *fields], f"{text}\n".encode())


def _encoded(status: HTTPStatus, fields: list[tuple[str, str]], body: bytes) -> bytes:
    """An HTTP response, after which the connection ends."""
    fields = [*fields, ("Content-Length", str(len(body))), ("Connection", "close")]
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode() + body
