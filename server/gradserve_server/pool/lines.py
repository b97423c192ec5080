"""Connections to hubs: a worker's to the keeper and to all front-ends, and a front-end's to the keeper.

One thread uses them. ZeroMQ's own thread moves the bytes, and connects again to a hub that was gone.
"""

import os
import select
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import zmq
from zmq.utils.monitor import parse_monitor_message

from .frames import frames_of, messages_of
from .hub import configure, readable
from .keys import Keys, secure_line

LINGER_MS = 5000  # How long last messages may take when the connections are closed.
RECONNECT_MS, MAX_RECONNECT_MS = 100, 1000


class Connected(NamedTuple):
    """The hub is there, for the first time or again."""


class Disconnected(NamedTuple):
    """The hub is gone, or was not heard for too long."""


class Received(NamedTuple):
    """A message, or the news that a hub came or went, with the position of its endpoint."""

    line: int
    message: Any


class Lines:
    """The connections of one process, under one name."""

    def __init__(
        self, endpoints: Sequence[str], name: bytes, *, ends: int | None = None, keys: Keys | None = None
    ) -> None:
        """`keys`: for endpoints that are not of this machine.

        `ends`: a descriptor that becomes readable when this process should end; `wait` then ends it with code 0.
        """
        self._ends = ends
        self._context = zmq.Context()
        self._sockets, self._monitors = [], []
        for endpoint in endpoints:
            sock = self._context.socket(zmq.DEALER)
            configure(sock)
            sock.linger = LINGER_MS
            sock.setsockopt(zmq.ROUTING_ID, name)
            sock.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
            sock.setsockopt(zmq.RECONNECT_IVL_MAX, MAX_RECONNECT_MS)
            if keys is not None and not endpoint.startswith("ipc:"):
                secure_line(sock, keys)
            self._monitors.append(sock.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED))
            sock.connect(endpoint)
            self._sockets.append(sock)
        self.descriptors = [sock.fileno() for sock in (*self._sockets, *self._monitors)]

    def __len__(self) -> int:
        return len(self._sockets)

    def send(self, line: int, messages: Sequence[object]) -> None:
        """Sends messages together, without waiting; they stay here until the hub is there."""
        self._sockets[line].send_multipart(frames_of(messages), zmq.NOBLOCK, copy=False)

    def wait(self, seconds: float | None) -> Iterator[Received]:
        """What has arrived. Waits for the first message, at most `seconds`; None waits for ever."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            has_arrived = False
            for received in self.arrived():
                has_arrived = True
                yield received
            left = None if end is None else end - time.monotonic()
            if has_arrived or (left is not None and left <= 0):
                return
            ready, _, _ = select.select([*self.descriptors, *filter(None, [self._ends])], (), (), left)
            if self._ends in ready:
                os._exit(0)

    def arrived(self) -> Iterator[Received]:
        """What has arrived by now. It must be taken to the end: descriptors signal only what is new."""
        for i, monitor in enumerate(self._monitors):
            while readable(monitor):
                event = parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))["event"]
                yield Received(i, Connected() if event == zmq.EVENT_HANDSHAKE_SUCCEEDED else Disconnected())
        for i, sock in enumerate(self._sockets):
            while readable(sock):
                for message in messages_of(sock.recv_multipart(zmq.NOBLOCK, copy=False), "a hub") or ():
                    yield Received(i, message)

    def close(self) -> None:
        """Closes the connections when the first endpoint, the keeper's, has got everything, or after LINGER_MS.

        Messages that front-ends have not got yet are dropped: they have ended by then, and would never take them.
        """
        if self._context.closed:
            return
        for sock in self._sockets:
            sock.disable_monitor()
        for sock in self._sockets[1:]:
            sock.close(0)
        self._context.destroy(LINGER_MS)
