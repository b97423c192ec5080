"""A pipe between two processes, for pickled messages with numpy arrays, whose bytes are sent as they are.

multiprocessing's own pipe copies arrays several times, and takes the interpreter's lock for every piece that it reads.
"""

import io
import pickle
import queue
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

HEADER = struct.Struct("=QQ")  # The sizes in bytes of the pickle and of the list of array lengths, which follow it.
LENGTH_BYTES = struct.calcsize("=Q")  # Size of an array's length in bytes.
FIRST_READ_BYTES = 2048  # Bytes of the first read, which mostly holds all but the arrays.
BUFFER_BYTES = 4 << 20  # Size of the pipe in bytes; systems may allow less.
# Largest messages in bytes that the sending thread writes itself. That takes 0.2 ms; waking the writer takes as long.
MAX_OWN_THREAD_BYTES = 1 << 20
MAX_PIECES = 512  # Most pieces in one system call; systems allow 1024.


class Pipe:
    """One end of the pipe. Any thread may send, one may receive.

    Sending never waits: messages that are large or do not fit into the pipe are left to a writer thread.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._lock = threading.Lock()
        self._queued, self._written = 0, 0  # Messages given to the writer thread, and those that it has written.
        self._outbox: queue.SimpleQueue[Sequence[memoryview] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def send(self, messages: Sequence[object]) -> None:
        """Sends messages together; drops them if the other end is gone. Their arrays must not change any more."""
        pieces = _pieces(messages)
        with self._lock, self._shutting_down_on_error():
            if self._end.fileno() < 0:
                return
            if self._queued == self._written and sum(piece.nbytes for piece in pieces) <= MAX_OWN_THREAD_BYTES:
                pieces = self._send_what_fits(pieces)
            if pieces:
                self._queued += 1
                self._outbox.put(pieces)

    def receive(self) -> Any:
        """Waits for messages that were sent together. Raises EOFError or OSError if the other end is gone."""
        head = self._read(FIRST_READ_BYTES)
        size, lengths = HEADER.unpack_from(head)
        if (missing := HEADER.size + size + lengths - FIRST_READ_BYTES) > 0:
            head += self._read(missing)
        array_bytes = struct.unpack_from(f"={lengths // LENGTH_BYTES}Q", head, HEADER.size + size)
        arrays = [np.empty(count, np.uint8) for count in array_bytes]
        self._fill([array.data for array in arrays])
        return pickle.loads(memoryview(head)[HEADER.size :], buffers=arrays)

    def close(self) -> None:
        """Waits until all messages are written, or the other end is gone, and closes this end."""
        self._outbox.put(None)
        self._writer.join()
        with self._lock:
            self._end.close()

    @contextmanager
    def _shutting_down_on_error(self) -> Iterator[None]:
        """Shuts the pipe down if a message is sent in part only; both ends notice when they receive."""
        try:
            yield
        except OSError:
            with suppress(OSError):
                self._end.shutdown(socket.SHUT_RDWR)

    def _send_what_fits(self, pieces: Sequence[memoryview]) -> Sequence[memoryview]:
        """Sends as much as fits into the pipe; returns the rest."""
        with suppress(BlockingIOError):
            return _rest(pieces, self._end.sendmsg(pieces[:MAX_PIECES], (), socket.MSG_DONTWAIT))
        return pieces

    def _write(self) -> None:
        """The writer thread: writes the messages of the outbox until it finds None there."""
        while (pieces := self._outbox.get()) is not None:
            with self._shutting_down_on_error():
                while pieces:
                    pieces = _rest(pieces, self._end.sendmsg(pieces[:MAX_PIECES]))
            self._written += 1

    def _read(self, size: int) -> bytearray:
        read = bytearray(size)
        self._fill([memoryview(read)])
        return read

    def _fill(self, pieces: Sequence[memoryview]) -> None:
        """Reads until these pieces of memory are full."""
        pieces = _rest(pieces, 0)
        while pieces:
            count = self._end.recvmsg_into(pieces[:MAX_PIECES], 0, socket.MSG_WAITALL)[0]
            if not count:
                raise EOFError("the other end is gone")
            pieces = _rest(pieces, count)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """Copies arrays that are read-only, since they would arrive read-only, and torch warns of those."""
        if isinstance(value, np.ndarray) and not value.flags.writeable:
            return value.copy(order="K").__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


def _pieces(messages: Sequence[object]) -> Sequence[memoryview]:
    """Messages as `receive` reads them: header, pickle and array lengths in one piece, then the arrays."""
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append).dump(messages)
    pickled = file.getvalue()
    arrays = [buffer.raw() for buffer in buffers]
    lengths = struct.pack(f"={len(arrays)}Q", *(array.nbytes for array in arrays))
    head = HEADER.pack(len(pickled), len(lengths)) + pickled + lengths
    return [memoryview(head.ljust(FIRST_READ_BYTES, b"\0")), *arrays]


def _rest(pieces: Sequence[memoryview], done: int) -> Sequence[memoryview]:
    """The pieces without the first `done` bytes, and without empty pieces."""
    rest = []
    for piece in pieces:
        if piece.nbytes > done:
            rest.append(piece[done:])
        done = max(0, done - piece.nbytes)
    return rest
