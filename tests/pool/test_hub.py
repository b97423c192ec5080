"""What crosses a hub and its lines: arrays of all kinds, large messages, peers that come and go, and strangers."""

import asyncio
import logging
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zmq

from gradserve_server.pool.frames import Unread, frames_of
from gradserve_server.pool.hub import LENT_BYTES, Hub
from gradserve_server.pool.lines import LINGER_MS, Connected, Disconnected, Lines, Received
from gradserve_server.pool.wire import Cancel, Outcome, Stop

BIG = 48 << 20  # Bytes: more than any system's buffer takes.


class Ends:
    """A hub with one line to it."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder}/hub.sock"
        self.heard: list[tuple[bytes, Any]] = []
        self.lost: list[bytes] = []
        self.open()
        self.lines = Lines([self.endpoint], b"peer")

    def open(self) -> None:
        self.hub = Hub([self.endpoint], lambda name, message: self.heard.append((name, message)), self.lost.append)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    async def arrived(self, count: int) -> list[Any]:
        """The next messages at the line."""
        found: list[Any] = []
        await self.until(lambda: found.extend(each.message for each in self.lines.arrived()) or len(found) >= count)
        return found


@pytest.fixture
async def ends(tmp_path: Path) -> Iterator[Ends]:
    ends = Ends(tmp_path)
    assert await ends.arrived(1) == [Connected()]
    ends.lines.send(0, ["I am here"])
    await ends.until(lambda: bool(ends.heard))
    ends.heard.clear()
    yield ends
    ends.hub.close()
    ends.lines.close()


KINDS = {
    "bytes": np.arange(50_000, dtype=np.uint8).reshape(100, 500),
    "large bytes": np.arange(600_000, dtype=np.uint8).reshape(100, 6000),
    "floats": np.random.default_rng(0).normal(size=(3, 150, 170)).astype(np.float32),
    "half": np.ones((4, 4), np.float16),
    "big-endian": np.arange(9, dtype=">i4"),
    "columns first": np.asfortranarray(np.random.default_rng(1).normal(size=(40, 30))),
    "every second": np.arange(1000)[::2],
    "no dimension": np.array(3.5),
    "empty": np.empty((0, 7), np.float32),
    "truth": np.array([True, False]),
    "read-only": np.frombuffer(bytes(range(100)), np.uint8).reshape(10, 10),
    "large and read-only": np.frombuffer(bytes(100_000), np.uint8),
    "read-only columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}
KINDS["read-only columns"].flags.writeable = False


@pytest.mark.parametrize("name", KINDS)
async def test_an_array_arrives_as_it_was_and_can_be_written_to(ends: Ends, name: str) -> None:
    sent = KINDS[name]
    ends.hub.send(b"peer", [Outcome(name, sent)])
    ends.lines.send(0, [Outcome(name, sent)])
    await ends.until(lambda: bool(ends.heard))
    (there,) = await ends.arrived(1)
    for message in (there, ends.heard[0][1]):
        assert message.id == name
        assert message.result.dtype == sent.dtype
        assert message.result.shape == sent.shape
        assert np.array_equal(message.result, sent)
        assert message.result.flags.writeable
        assert message.result.flags.aligned


@pytest.mark.parametrize("count", [0, 1, 511, 1500])
async def test_any_number_of_arrays(ends: Ends, count: int) -> None:
    arrays = [np.full(i % 5, i, np.int64) for i in range(count)]
    ends.hub.send(b"peer", [arrays, "after"])
    received, after = await ends.arrived(2)
    assert after == "after"
    assert all(np.array_equal(a, b) for a, b in zip(arrays, received, strict=True))


async def test_sending_never_waits_and_everything_arrives_in_its_order(ends: Ends) -> None:
    big = np.arange(BIG, dtype=np.uint8)
    begun = time.monotonic()
    for name, array in (("first", big), ("second", big[:10]), ("third", big[: LENT_BYTES + 1])):
        ends.hub.send(b"peer", [Outcome(name, array)])
        ends.lines.send(0, [Outcome(name, array)])
    assert time.monotonic() - begun < 60, "nobody has read yet"
    there = await ends.arrived(3)
    await ends.until(lambda: len(ends.heard) == 3)
    for received in (there, [message for _, message in ends.heard]):
        assert [message.id for message in received] == ["first", "second", "third"]
        assert np.array_equal(received[0].result, big)


async def test_many_messages_are_taken_in_bursts_and_none_is_forgotten(ends: Ends) -> None:
    for i in range(2000):
        ends.lines.send(0, [i])
    await ends.until(lambda: len(ends.heard) == 2000)
    assert [message for _, message in ends.heard] == list(range(2000))
    for i in range(2000):
        ends.hub.send(b"peer", [i])
    assert await ends.arrived(2000) == list(range(2000))


async def test_a_peer_that_ends_is_lost_and_its_last_message_is_taken(ends: Ends) -> None:
    order: list[str] = []
    ends.hub._on_message = lambda name, message: order.append("message")
    ends.hub._on_lost = lambda name: order.append(f"lost {name.decode()}")
    ends.lines.send(0, [Outcome("last", np.arange(1 << 20))])
    await asyncio.to_thread(ends.lines.close)  # It waits until this loop has read everything.
    await ends.until(lambda: len(order) == 2)
    assert sorted(order) == ["lost peer", "message"]
    ends.hub.send(b"peer", ["nobody hears this"])


async def test_who_gets_the_descriptor_of_one_that_is_gone_is_not_taken_for_it(ends: Ends) -> None:
    """Both happen between a look at who is gone and the messages."""
    (descriptor,) = ends.hub._names
    ends.lines.close()
    time.sleep(0.2)  # This loop must not look meanwhile.
    frame = SimpleNamespace(get=lambda _: descriptor, bytes=frames_of(["hello"])[0])
    ends.hub._take(b"successor", [frame])  # type: ignore[list-item]
    assert (ends.lost, ends.heard) == ([b"peer"], [(b"successor", "hello")])
    await asyncio.sleep(0.05)
    assert ends.lost == [b"peer"], "and not its successor"


async def test_closing_waits_for_the_keeper_but_for_no_front_end_that_is_gone(ends: Ends, tmp_path: Path) -> None:
    began = time.monotonic()
    lines = Lines([ends.endpoint, f"ipc://{tmp_path}/gone.sock"], b"other")
    lines.send(1, ["nobody hears this"])
    lines.send(0, ["last words"])
    await asyncio.to_thread(lines.close)
    assert time.monotonic() - began < LINGER_MS / 1000
    await ends.until(lambda: (b"other", "last words") in ends.heard)


async def test_a_hub_that_comes_again_is_found_again(ends: Ends) -> None:
    ends.hub.close()
    assert await ends.arrived(1) == [Disconnected()]
    ends.open()
    assert await ends.arrived(1) == [Connected()]
    ends.lines.send(0, ["again"])
    await ends.until(lambda: bool(ends.heard))
    assert ends.heard == [(b"peer", "again")]
    ends.hub.send(b"peer", ["welcome"])
    assert await ends.arrived(1) == ["welcome"]


async def test_a_message_that_cannot_be_taken_harms_no_other(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    heard = []

    def hear(_: bytes, message: Any) -> None:
        if message == "bad":
            raise ArithmeticError("a fault of ours")
        heard.append(message)

    ends.hub._on_message = hear
    ends.lines.send(0, ["first", "bad", "last"])
    await ends.until(lambda: len(heard) == 2)
    assert heard == ["first", "last"]
    assert "a fault of ours" in caplog.text


async def test_what_cannot_be_pickled_harms_no_other_message(ends: Ends) -> None:
    for send in (lambda message: ends.hub.send(b"peer", [message]), lambda message: ends.lines.send(0, [message])):
        with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
            send(lambda: None)
        send("after")
    await ends.until(lambda: bool(ends.heard))
    assert await ends.arrived(1) == ["after"]


@dataclass(frozen=True)
class Foreign:
    """A class of this test, which no message is made of."""


class Evil:
    """Unpickling this would print."""

    def __reduce__(self) -> Any:
        return print, ("it was run",)


def strange(head: bytes, *more: bytes) -> list[bytes]:
    return [head, *more]


def named(name: str) -> list[bytes]:
    """Calls what has that name, after an empty list of ids."""
    return [pickle.dumps([]) + f"c{name}\n(tR.".encode()]


NOT_EVEN_IDS = {"a function", "noise", "nothing", "no ids", "a buffer too few"}
STRANGERS = {
    "a function": (strange(pickle.dumps([Evil()])), "builtins.print"),
    "a function after the ids": (strange(pickle.dumps([]) + pickle.dumps([Evil()])), "builtins.print"),
    "a foreign class": (strange(pickle.dumps([]) + pickle.dumps([Foreign()])), "Foreign"),
    "a function of ours": (named("gradserve_server.pool.forking\nstart"), "gradserve_server.pool.forking.start"),
    "a class of ours that is no message": (named("gradserve_server.pool.hub\nHub"), "gradserve_server.pool.hub.Hub"),
    "noise": (strange(b"\x80\x05noise"), "UnpicklingError"),
    "nothing": (strange(b""), "EOFError"),
    "no ids": (strange(pickle.dumps(5)), "TypeError"),
    "no messages": (strange(pickle.dumps([])), "EOFError"),
    "no list of messages": (strange(pickle.dumps([]) + pickle.dumps(5)), "TypeError"),
    "a buffer too few": (strange(pickle.dumps(np.arange(10), protocol=5, buffer_callback=lambda _: None)), "buffers"),
}


@pytest.mark.parametrize("what", STRANGERS)
async def test_what_a_stranger_sends_is_refused_and_harms_nobody(
    ends: Ends, what: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, told = STRANGERS[what]
    caplog.set_level(logging.ERROR)
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.routing_id = b"stranger"
        stranger.connect(ends.endpoint)
        stranger.send_multipart(frames)
        await ends.until(lambda: "is refused" in caplog.text)
    assert caplog.text.count("a message of b'stranger' is refused") == 1
    assert told in caplog.text
    assert capsys.readouterr().out == ""
    expected = [b"stranger"] if what in NOT_EVEN_IDS else []
    assert ends.lost == expected, "whoever sends what has not even ids is not relied on"
    ends.lines.send(0, [Cancel("after")])
    await ends.until(lambda: bool(ends.heard))
    assert ends.heard == [(b"peer", Cancel("after"))]


async def test_of_what_cannot_be_read_the_tasks_are_known(ends: Ends) -> None:
    messages = [Outcome("first", np.zeros(3)), Outcome("second", Foreign()), Cancel("third"), Stop()]
    ends.hub.send(b"peer", messages)
    ends.lines.send(0, messages)
    await ends.until(lambda: len(ends.heard) == 3)
    for unread in (await ends.arrived(3), [message for _, message in ends.heard]):
        assert [each.id for each in unread] == ["first", "second", "third"]
        assert all(isinstance(each, Unread) and "Foreign" in each.reason for each in unread)
    ends.lines.send(0, [Stop()])
    await ends.until(lambda: len(ends.heard) == 4)
    assert ends.lost == [], "it is relied on all the same"


async def test_an_address_in_use_is_told(tmp_path: Path) -> None:
    def hub(endpoint: str) -> Hub:
        return Hub([endpoint], lambda name, message: None, lambda name: None)

    first = hub("tcp://127.0.0.1:*")
    taken = first._socket.last_endpoint.decode().rstrip("\0")
    with pytest.raises(OSError, match=rf"cannot listen for workers: Address already in use \(addr='{taken}'\)"):
        hub(taken)
    with pytest.raises(OSError, match="cannot listen for workers"):
        hub(f"ipc://{tmp_path}/no/such/folder.sock")
    first.close()


def test_a_wait_ends_in_time(tmp_path: Path) -> None:
    lines = Lines([f"ipc://{tmp_path}/nobody.sock"], b"peer")
    begun = time.monotonic()
    assert list(lines.wait(0.2)) == []
    assert 0.15 < time.monotonic() - begun < 5
    lines.close()


async def test_a_wait_ends_with_a_message(ends: Ends) -> None:
    waiting = asyncio.create_task(asyncio.to_thread(lambda: list(ends.lines.wait(None))))
    await asyncio.sleep(0.05)
    ends.hub.send(b"peer", ["now"])
    assert await asyncio.wait_for(waiting, 10) == [Received(0, "now")]
