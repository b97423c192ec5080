"""HTTP/2 without gRPC's client, for what that never does: leave replies unread, or send a part of a request."""

import socket
from contextlib import suppress
from typing import Self

from google.protobuf.message import Message
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, ResponseReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from serving import PATIENCE


def message(request: Message) -> bytes:
    """A request as gRPC writes it: a flag, its length, its bytes."""
    data = request.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data


class RawConnection:
    """A connection to HOST:PORT; `window`: bytes of a reply's messages that are taken."""

    def __init__(self, address: str, token: str = "", window: int = 1 << 16) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self.http = H2Connection(H2Configuration(client_side=True))
        self.http.local_settings = Settings(client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.http.initiate_connection()
        self.events: list[Event] = []
        self._token = token

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def answered(self) -> int:
        """How many calls have been given the beginning of an answer."""
        return sum(isinstance(event, ResponseReceived) for event in self.events)

    def send(self, path: str, body: bytes, *, whole: bool = True) -> int:
        """Sends a request, or the beginning of one, once the server takes so many bytes; the number of its stream."""
        while self.http.outbound_flow_control_window < len(body):
            if not self.receive():
                raise ConnectionResetError("the server has closed the connection")
        stream = self.http.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "http"), (":authority", "test"), (":path", path)]
        headers += [("te", "trailers"), ("content-type", "application/grpc")]
        headers += [("authorization", f"Bearer {self._token}")] if self._token else []
        self.http.send_headers(stream, headers)
        self.http.send_data(stream, body, end_stream=whole)
        self.socket.sendall(self.http.data_to_send())
        return stream

    def take(self, stream: int) -> None:
        """Takes what comes of a reply from now on."""
        for one in (stream, None):
            self.http.increment_flow_control_window(1 << 24, one)
        self.socket.sendall(self.http.data_to_send())

    def receive(self) -> bool:
        """Waits for the next bytes, and answers pings; False where the server has closed the connection."""
        data = self.socket.recv(1 << 16)
        with suppress(ProtocolError):  # After the server's GOAWAY, h2 takes nothing more.
            self.events += self.http.receive_data(data)
            self.socket.sendall(self.http.data_to_send())
        return bool(data)
