"""The socket to which others connect: workers at every front-end, workers and front-ends at the keeper.

The event loop itself reads it.

Messages are ZeroMQ's: its own thread moves the bytes and answers its heartbeats, also while Python computes.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import parse_monitor_message

from .frames import frames_of, messages_of
from .keys import Keys, secure_hub

log = logging.getLogger(__name__)

BURST = 32  # Groups of messages that are taken before the event loop runs other callbacks.
LENT_BYTES = 1 << 16  # Frames from this size on are lent to ZeroMQ instead of copied.
BUFFER_BYTES = 4 << 20  # Size of the system's buffers.
HEARTBEAT_MS = 1000  # Between two heartbeats.
SILENT_MS = 3500  # Without an answer for so long a peer is lost: its process is frozen, or its host is.


def configure(sock: "zmq.Socket[bytes]") -> None:
    """Sets the options of all sockets: queues without a bound, since admission has one, and heartbeats to the peer."""
    sock.set_hwm(0)
    sock.linger = 0
    sock.sndbuf = sock.rcvbuf = BUFFER_BYTES
    sock.copy_threshold = LENT_BYTES
    sock.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENT_MS)


def readable(sock: "zmq.Socket[bytes]") -> bool:
    """Whether something has arrived."""
    return bool(int(sock.getsockopt(zmq.EVENTS)) & zmq.POLLIN)


class Hub:
    """All who connect to one process, by their names. Its methods are called on the event loop, and never wait."""

    def __init__(
        self,
        endpoints: Sequence[str],
        on_message: Callable[[bytes, Any], None],
        on_lost: Callable[[bytes], None],
        keys: Keys | None = None,
    ) -> None:
        """`on_message` gets each message with its sender's name, and `on_lost` is called when a connection has ended.

        A peer's last messages may come after `on_lost`, and it may have connected again before `on_lost` is called.
        `keys`: endpoints other than this machine's (ipc) accept only peers that have them. Raises OSError where an
        endpoint cannot be bound.
        """
        self._on_message, self._on_lost = on_message, on_lost
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        configure(self._socket)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # Without this, messages to unknown names vanish silently.
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # One may connect again before its old connection has ended.
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._names: dict[int, bytes] = {}  # By the file descriptor of the connection.
        self._authenticator: ThreadAuthenticator | None = None
        try:
            for endpoint in sorted(endpoints):  # Those of this machine, ipc, come first: they need no keys.
                if keys is not None and not endpoint.startswith("ipc:") and self._authenticator is None:
                    self._authenticator = secure_hub(self._context, self._socket, keys)
                self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._stop_authenticator()
            self._context.destroy(0)  # Otherwise Python would wait for its sockets when it collects the context.
            raise OSError(f"cannot listen for workers: {error}") from error
        for sock in (self._socket, self._monitor):
            self._loop.add_reader(sock.fileno(), self._look)

    def send(self, name: bytes, messages: Sequence[object]) -> None:
        """Sends messages together. They are dropped where nobody of that name is connected."""
        if self._socket.closed:
            return
        with suppress(zmq.ZMQError):  # `on_lost` was or will be called.
            self._socket.send_multipart([name, *frames_of(messages)], zmq.NOBLOCK, copy=False)
        if readable(self._socket):  # Sending may have taken the descriptor's signal.
            self._loop.call_soon(self._look)

    def close(self) -> None:
        """Closes the socket; what was not sent yet is lost."""
        if self._socket.closed:
            return
        for sock in (self._socket, self._monitor):
            self._loop.remove_reader(sock.fileno())
        self._socket.disable_monitor()
        self._stop_authenticator()
        self._context.destroy(0)  # It closes the monitor's socket too: waiting for that would never end.

    def _stop_authenticator(self) -> None:
        if self._authenticator is not None:
            self._authenticator.stop()

    def _look(self) -> None:
        """Reports connections that have ended, then takes the messages that have arrived."""
        if self._socket.closed:
            return
        self._take_ends()
        if self._take_burst():
            self._loop.call_soon(self._look)

    def _take_ends(self) -> None:
        """Reports connections that have ended.

        This comes before messages are taken, since new connections may get the file descriptors of ended ones.
        """
        while readable(self._monitor):
            event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            if (name := self._names.pop(event["value"], None)) is not None:
                self._on_lost(name)

    def _take_burst(self) -> bool:
        """Takes up to BURST groups of messages; returns whether there may be more."""
        for _ in range(BURST):
            if self._socket.closed:
                return False
            try:
                name, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            self._take(name.bytes, frames)
        return True

    def _take(self, name: bytes, frames: Sequence[zmq.Frame]) -> None:
        if not frames:
            return
        descriptor = frames[0].get(zmq.SRCFD)
        if self._names.get(descriptor) != name:  # It has connected, for the first time or again.
            self._take_ends()  # Whoever had the descriptor before may have gone since the last look.
            self._names = {other: each for other, each in self._names.items() if each != name} | {descriptor: name}
        messages = messages_of(frames, repr(name))
        if messages is None:
            self._on_lost(name)  # It may have answered a task, which would wait for ever.
            return
        for message in messages:
            try:
                self._on_message(name, message)
            except Exception:  # One faulty message must not keep the others from being taken.
                log.exception("a message cannot be taken: %.200r", message)
