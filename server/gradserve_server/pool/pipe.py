"""A pipe between two processes: pickled messages, and beside them their arrays as they lie in memory.

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

HEADER = struct.Struct("=QQ")  # bytes of the pickle and of the arrays' lengths, which follow
LENGTH = struct.calcsize("=Q")
FIRST_READ_BYTES = 2048  # bytes read at first: mostly all but the arrays
BUFFER_BYTES = 4 << 20  # bytes on their way before anybody waits; systems may allow less
MAX_OWN_THREAD_BYTES = (
    1 << 20
)  # bytes that whoever sends copies by itself: 0.2 ms; waking a thread for each takes as long
MAX_PIECES = 512  # pieces in one call; systems allow 1024


class Pipe:
    """One end. Any thread may send, one receives.

    Sending never waits: what is large, or does not fit into the pipe, is left to a thread.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._lock = threading.Lock()
        self._queued, self._written = 0, 0  # by the thread
        self._outbox: queue.SimpleQueue[Sequence[memoryview] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def send(self, messages: Sequence[object]) -> None:
        """All together; dropped where the other end is gone. Arrays must not change any more."""
        pieces = _pieces(messages)
        with self._lock, self._or_end():
            if self._end.fileno() < 0:
                return
            if self._queued == self._written and sum(piece.nbytes for piece in pieces) <= MAX_OWN_THREAD_BYTES:
                pieces = self._offer(pieces)
            if pieces:
                self._queued += 1
                self._outbox.put(pieces)

    def receive(self) -> Any:
        """Waits for messages that were sent together. Raises EOFError and OSError where the other end is gone."""
        head = self._read(FIRST_READ_BYTES)
        size, lengths = HEADER.unpack_from(head)
        if (missing := HEADER.size + size + lengths - FIRST_READ_BYTES) > 0:
            head += self._read(missing)
        each = struct.unpack_from(f"={lengths // LENGTH}Q", head, HEADER.size + size)
        arrays = [np.empty(length, np.uint8) for length in each]
        self._fill([array.data for array in arrays])
        return pickle.loads(memoryview(head)[HEADER.size :], buffers=arrays)

    def close(self) -> None:
        """Waits until what is left was read, or the other end is gone."""
        self._outbox.put(None)
        self._writer.join()
        with self._lock:
            self._end.close()

    @contextmanager
    def _or_end(self) -> Iterator[None]:
        """After a message that was not sent whole no other can be; both ends will see it as they receive."""
        try:
            yield
        except OSError:
            with suppress(OSError):
                self._end.shutdown(socket.SHUT_RDWR)

    def _offer(self, pieces: Sequence[memoryview]) -> Sequence[memoryview]:
        """Sends what fits into the pipe; the rest."""
        with suppress(BlockingIOError):
            return _rest(pieces, self._end.sendmsg(pieces[:MAX_PIECES], (), socket.MSG_DONTWAIT))
        return pieces

    def _write(self) -> None:
        while (pieces := self._outbox.get()) is not None:
            with self._or_end():
                while pieces:
                    pieces = _rest(pieces, self._end.sendmsg(pieces[:MAX_PIECES]))
            self._written += 1

    def _read(self, size: int) -> bytearray:
        read = bytearray(size)
        self._fill([memoryview(read)])
        return read

    def _fill(self, pieces: Sequence[memoryview]) -> None:
        pieces = _rest(pieces, 0)
        while pieces:
            got = self._end.recvmsg_into(pieces[:MAX_PIECES], 0, socket.MSG_WAITALL)[0]
            if not got:
                raise EOFError("the other end is gone")
            pieces = _rest(pieces, got)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """An array that cannot be written to would arrive so, and torch wants none of those."""
        if isinstance(value, np.ndarray) and not value.flags.writeable:
            return value.copy(order="K").__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


def _pieces(messages: Sequence[object]) -> Sequence[memoryview]:
    """What `receive` reads."""
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append).dump(messages)
    pickled = file.getvalue()
    arrays = [buffer.raw() for buffer in buffers]
    lengths = struct.pack(f"={len(arrays)}Q", *(array.nbytes for array in arrays))
    head = HEADER.pack(len(pickled), len(lengths)) + pickled + lengths
    return [memoryview(head.ljust(FIRST_READ_BYTES, b"\0")), *arrays]


def _rest(pieces: Sequence[memoryview], done: int) -> Sequence[memoryview]:
    """The pieces without their first bytes, and without empty ones."""
    rest = []
    for piece in pieces:
        if piece.nbytes > done:
            rest.append(piece[done:])
        done = max(0, done - piece.nbytes)
    return rest
