"""Callers that do not take their replies: what they leave is counted, their streams end, and others are served."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest
from h2.events import TrailersReceived
from raw_http2 import RawConnection, message
from serving import PATIENCE, Server, Stubs, picture, refused

from gradserve.v1 import maximize_pb2, predict_pb2
from gradserve_server.api.errors import Full
from gradserve_server.api.transport.unread import UnreadReplies

CONFIG = """
[server]
unread_seconds = 0.5
max_connections = 8
max_connection_age = 1
max_connection_grace = 8
token_file = "{tokens}"
[limits]
max_unread_bytes = 2000
[pool]
workers = 1
[models.digits]
"""
TOKENS = ("first", "second")
PREDICT = predict_pb2.PredictRequest(image=picture(0, 8, 8))
SERVICE = "/gradserve.v1.GradientService"
GOAL = maximize_pb2.Goal(summands=[{"target": {"class_index": 1}}])
MAXIMIZE = maximize_pb2.MaximizeRequest(goals=[GOAL], settings={"steps": 4000})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text("\n".join(f"{each}-secret {each}" for each in TOKENS))
    with Server(CONFIG.format(tokens=tokens)) as server:
        yield server


@contextmanager
def deaf(server: Server, token: str) -> Iterator[RawConnection]:
    """A connection on which no byte of a reply's message is taken: its flow-control window is 0."""
    with RawConnection(server.address, token=f"{token}-secret", window=0) as connection:
        yield connection


def predict(server: Server, token: str) -> str:
    """The code of a request that reads its reply."""
    with server.channel() as channel:
        try:
            Stubs.of(channel).gradients.Predict(
                PREDICT, timeout=PATIENCE, metadata=(("authorization", f"Bearer {token}-secret"),)
            )
        except grpc.RpcError as error:
            return refused(error).code
    return "OK"


def until(server: Server, token: str, code: str) -> None:
    end = time.monotonic() + PATIENCE
    while predict(server, token) != code:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_who_leaves_replies_unread_gets_no_more_until_the_connection_ends(server: Server) -> None:
    with deaf(server, "first") as connection:
        for _ in range(10):
            connection.send(f"{SERVICE}/Predict", message(PREDICT))
        while connection.answered < 10:
            assert connection.receive()
        until(server, "first", "RESOURCE_EXHAUSTED")
        assert predict(server, "second") == "OK"
        assert server.metric("gradserve_rejected_total", reason="unread") > 0
    until(server, "first", "OK")


def test_a_connection_whose_calls_never_end_is_closed(server: Server) -> None:
    with deaf(server, "first") as connection:
        connection.send(f"{SERVICE}/Predict", message(PREDICT))
        while connection.receive():
            pass


def test_a_stream_that_is_not_read_ends(server: Server) -> None:
    with deaf(server, "second") as connection:
        connection.send(f"{SERVICE}/StreamMaximize", message(MAXIMIZE))
        ended = {"grpc_service": "gradserve.v1.GradientService", "grpc_method": "StreamMaximize"}
        end = time.monotonic() + PATIENCE
        while server.metric("grpc_server_handled_total", **ended, grpc_code="RESOURCE_EXHAUSTED") != 1:
            assert time.monotonic() < end
            time.sleep(0.1)
        while server.metric("gradserve_jobs_in_flight", method="maximize"):
            assert time.monotonic() < end
            time.sleep(0.1)


def test_connections_beyond_the_limit_are_closed(server: Server) -> None:
    address = server.address.rsplit(":", 1)
    held = [socket.create_connection((address[0], int(address[1])), timeout=PATIENCE) for _ in range(16)]
    try:
        end = time.monotonic() + PATIENCE
        while sum(map(closed, held)) < 8:
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        for each in held:
            each.close()
    until(server, "second", "OK")


def closed(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        while data := connection.recv(1 << 16):
            assert data
        return True
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_stream_that_is_read_late_is_told_that_it_has_ended(server: Server) -> None:
    """It is counted no longer, and so the caller is served again."""
    with deaf(server, "second") as connection:
        stream = connection.send(f"{SERVICE}/StreamMaximize", message(MAXIMIZE))
        ended = {"grpc_service": "gradserve.v1.GradientService", "grpc_method": "StreamMaximize"}
        before = server.metric("grpc_server_handled_total", **ended, grpc_code="RESOURCE_EXHAUSTED")
        end = time.monotonic() + PATIENCE
        while server.metric("grpc_server_handled_total", **ended, grpc_code="RESOURCE_EXHAUSTED") == before:
            assert time.monotonic() < end
            time.sleep(0.1)
        connection.take(stream)
        while not any(isinstance(event, TrailersReceived) for event in connection.events):
            assert connection.receive()
    until(server, "second", "OK")


async def test_replies_on_their_way_are_bounded_too() -> None:
    unread, contexts = UnreadReplies(60.0, 1000), [Context() for _ in range(6)]
    for context in contexts:
        unread.check("caller")
        unread.watch("caller", 800, context)  # type: ignore[arg-type]
    with pytest.raises(Full, match="on their way"):
        unread.check("caller")
    unread.check("another")
    contexts[0].end()
    unread.check("caller")


class Context:
    """A call's, as far as it tells of its end."""

    def add_done_callback(self, function: Callable[[object], None]) -> None:
        self.end = lambda: function(None)
