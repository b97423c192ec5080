"""Callers that do not take their replies: what they leave is counted, their streams end, and others are served."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import grpc
import pytest
from google.protobuf.message import Message
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from serving import PATIENCE, Server, Stubs, picture, refused

from gradserve.v1 import maximize_pb2, predict_pb2

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
GOAL = maximize_pb2.Goal(summands=[{"target": {"class_index": 1}}])
MAXIMIZE = maximize_pb2.MaximizeRequest(goals=[GOAL], settings={"steps": 4000})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text("\n".join(f"{each}-secret {each}" for each in TOKENS))
    with Server(CONFIG.format(tokens=tokens)) as server:
        yield server


class Deaf:
    """A connection on which requests are sent, and of whose replies no byte is taken: its flow-control window is 0."""

    def __init__(self, server: Server, token: str) -> None:
        host, port = server.address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self.token = token
        self.http = H2Connection(H2Configuration(client_side=True))
        self.http.local_settings = Settings(client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: 0})
        self.http.initiate_connection()
        self.answered = 0

    def ask(self, rpc: str, request: Message) -> None:
        stream, data = self.http.get_next_available_stream_id(), request.SerializeToString()
        headers = [(":method", "POST"), (":scheme", "http"), (":authority", "test")]
        headers += [(":path", f"/gradserve.v1.GradientService/{rpc}"), ("te", "trailers")]
        headers += [("content-type", "application/grpc"), ("authorization", f"Bearer {self.token}-secret")]
        self.http.send_headers(stream, headers)
        self.http.send_data(stream, b"\0" + len(data).to_bytes(4, "big") + data, end_stream=True)
        self.socket.sendall(self.http.data_to_send())

    def receive(self) -> bool:
        """Waits for the next bytes, and answers pings; False where the server has closed the connection."""
        data = self.socket.recv(1 << 16)
        with suppress(ProtocolError):  # After the server's GOAWAY, h2 takes nothing more.
            self.answered += sum(isinstance(event, ResponseReceived) for event in self.http.receive_data(data))
            self.socket.sendall(self.http.data_to_send())
        return bool(data)


@contextmanager
def deaf(server: Server, token: str) -> Iterator[Deaf]:
    connection = Deaf(server, token)
    try:
        yield connection
    finally:
        connection.socket.close()


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
            connection.ask("Predict", PREDICT)
        while connection.answered < 10:
            assert connection.receive()
        until(server, "first", "RESOURCE_EXHAUSTED")
        assert predict(server, "second") == "OK"
        assert server.metric("gradserve_rejected_total", reason="unread") > 0
    until(server, "first", "OK")


def test_a_connection_whose_calls_never_end_is_closed(server: Server) -> None:
    with deaf(server, "first") as connection:
        connection.ask("Predict", PREDICT)
        while connection.receive():
            pass


def test_a_stream_that_is_not_read_ends(server: Server) -> None:
    with deaf(server, "second") as connection:
        connection.ask("StreamMaximize", MAXIMIZE)
        ended = {"grpc_service": "gradserve.v1.GradientService", "grpc_method": "StreamMaximize"}
        end = time.monotonic() + PATIENCE
        while server.metric("grpc_server_handled_total", **ended, grpc_code="UNAVAILABLE") != 1:
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
