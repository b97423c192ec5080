"""What crosses a pipe: arrays of all kinds, large messages, messages of several senders, and an end that is gone."""

import errno
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gradserve_server.pool.pipe import FIRST_READ_BYTES, MAX_OWN_THREAD_BYTES, Pipe

BIG = 48 << 20  # bytes: more than any pipe takes at once


@pytest.fixture
def ends() -> Any:
    """Both ends of a pipe."""
    pipes = [Pipe(end) for end in socket.socketpair()]
    yield pipes
    for pipe in pipes:
        threading.Thread(target=pipe.close, daemon=True).start()


@dataclass(frozen=True, slots=True)
class Message:
    """Anything."""

    name: str
    values: Any = None


KINDS = {
    "bytes": np.arange(50_000, dtype=np.uint8).reshape(100, 500),
    "floats": np.random.default_rng(0).normal(size=(3, 50, 70)).astype(np.float32),
    "half": np.ones((4, 4), np.float16),
    "big-endian": np.arange(9, dtype=">i4"),
    "columns first": np.asfortranarray(np.random.default_rng(1).normal(size=(40, 30))),
    "every second": np.arange(1000)[::2],
    "no dimension": np.array(3.5),
    "empty": np.empty((0, 7), np.float32),
    "truth": np.array([True, False]),
    "read-only": np.frombuffer(bytes(range(100)), np.uint8).reshape(10, 10),
    "read-only columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}
KINDS["read-only columns"].flags.writeable = False


@pytest.mark.parametrize("name", KINDS)
def test_an_array_arrives_as_it_was_and_can_be_written_to(ends: list[Pipe], name: str) -> None:
    sent = KINDS[name]
    ends[0].send([Message(name, sent)])
    (message,) = ends[1].receive()
    assert message.name == name
    assert message.values.dtype == sent.dtype
    assert message.values.shape == sent.shape
    assert np.array_equal(message.values, sent)
    assert message.values.flags.writeable
    assert message.values.flags.aligned


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 1500])
def test_any_number_of_arrays(ends: list[Pipe], count: int) -> None:
    arrays = [np.full(i % 5, i, np.int64) for i in range(count)]
    ends[0].send([arrays, "after"])
    received, after = ends[1].receive()
    assert after == "after"
    assert len(received) == count
    assert all(np.array_equal(a, b) for a, b in zip(arrays, received, strict=True))


@pytest.mark.parametrize(
    "length",
    [
        0,
        FIRST_READ_BYTES - 200,
        *range(FIRST_READ_BYTES - 60, FIRST_READ_BYTES),
        FIRST_READ_BYTES,
        3 * FIRST_READ_BYTES,
        1 << 20,
    ],
)
def test_any_length(ends: list[Pipe], length: int) -> None:
    ends[0].send(["x" * length, np.arange(3)])
    text, array = ends[1].receive()
    assert text == "x" * length
    assert array.tolist() == [0, 1, 2]


def test_sending_never_waits_and_everything_arrives_in_its_order(ends: list[Pipe]) -> None:
    big = np.arange(BIG, dtype=np.uint8)
    begun = time.monotonic()
    ends[0].send(["first", big])
    ends[0].send(["second"])
    ends[0].send(["third", big[: MAX_OWN_THREAD_BYTES // 2]])
    assert time.monotonic() - begun < 5.0, "nobody has read yet"
    first, received = ends[1].receive()
    assert first == "first"
    assert np.array_equal(received, big)
    assert ends[1].receive() == ["second"]
    assert ends[1].receive()[0] == "third"
    ends[0].send(["fourth"])  # the way is free again
    assert ends[1].receive() == ["fourth"]


def test_small_messages_fill_the_pipe_and_the_rest_follows(ends: list[Pipe]) -> None:
    count = 200  # of 100 kB each
    for i in range(count):
        ends[0].send([i, np.full(100_000, i, np.uint8)])
    for i in range(count):
        number, array = ends[1].receive()
        assert number == i
        assert (array == i).all()


def test_several_threads_may_send(ends: list[Pipe]) -> None:
    def speak(name: int) -> None:
        for i in range(50):
            ends[0].send([(name, i), np.full(60_000, name, np.uint8)])

    threads = [threading.Thread(target=speak, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    heard = [ends[1].receive() for _ in range(200)]
    for thread in threads:
        thread.join()
    assert all((array == name).all() for (name, _), array in heard)
    for name in range(4):
        assert [i for (who, i), _ in heard if who == name] == list(range(50))


def test_both_ways_at_once(ends: list[Pipe]) -> None:
    big = np.ones(BIG // 8, np.uint8)
    for end in ends:
        for _ in range(4):
            end.send([big])
    for end in ends:
        for _ in range(4):
            assert np.array_equal(end.receive()[0], big)


def test_closing_sends_what_is_left(ends: list[Pipe]) -> None:
    big = np.arange(BIG, dtype=np.uint8)
    ends[0].send([big])
    ends[0].send([big[::-1]])
    closing = threading.Thread(target=ends[0].close)
    closing.start()
    assert np.array_equal(ends[1].receive()[0], big)
    assert np.array_equal(ends[1].receive()[0], big[::-1])
    closing.join(10)
    with pytest.raises(EOFError):
        ends[1].receive()


def test_an_end_that_is_gone() -> None:
    ours, theirs = (Pipe(end) for end in socket.socketpair())
    ours.send([np.ones(BIG, np.uint8)])  # stuck half-way
    theirs.close()
    ours.send(["nobody hears this"])
    with pytest.raises((EOFError, OSError)):
        ours.receive()
    ours.close()
    ours.send(["nor this"])


class Failing(socket.socket):
    """Out of the system's memory after so many bytes."""

    room = 0

    def sendmsg(self, pieces: Any, *_: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOBUFS, "no buffer space")
        sent, self.room = super().send(pieces[0][: self.room]), 0
        return sent


@pytest.mark.parametrize("room", [0, 100])
@pytest.mark.parametrize("size", [10, BIG])
def test_after_a_message_that_was_not_sent_whole_there_is_no_other(room: int, size: int) -> None:
    ours, theirs = socket.socketpair()
    failing = Failing(fileno=ours.detach())
    failing.room = room
    pipe, other = Pipe(failing), Pipe(theirs)
    pipe.send([np.ones(size, np.uint8)])
    with pytest.raises(EOFError):
        other.receive()
    with pytest.raises(EOFError):
        pipe.receive()
    pipe.close()
    other.close()


def test_what_is_small_leaves_at_once() -> None:
    ours, theirs = socket.socketpair()
    pipe = Pipe(ours)
    for _ in range(50):
        pipe.send([np.ones(1000, np.uint8)])
        assert select.select([theirs], [], [], 0)[0], "it is there when send returns"
        theirs.recv(1 << 20)
    pipe.close()
    theirs.close()


def test_what_cannot_be_pickled_harms_no_other_message(ends: list[Pipe]) -> None:
    with pytest.raises((AttributeError, TypeError)):
        ends[0].send([lambda: None])
    ends[0].send(["after"])
    assert ends[1].receive() == ["after"]
