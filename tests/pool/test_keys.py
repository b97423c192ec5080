"""Who is heard at an endpoint that other hosts can reach: only who has the keys."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq
from ports import free_ports

from gradserve_server.pool.hub import Hub
from gradserve_server.pool.keys import Keys, new_keys, secure_line
from gradserve_server.pool.lines import Lines
from gradserve_server.pool.wire import Cancel


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_only_who_has_the_keys_is_heard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    keys, heard = new_keys(), list[tuple[bytes, Any]]()
    local, remote = f"ipc://{tmp_path}/hub.sock", f"tcp://127.0.0.1:{free_ports()[0]}"
    hub = Hub([remote, local], lambda name, message: heard.append((name, message)), lambda name: None, keys)
    stranger_keys = Keys(keys.hub_public, "", *new_keys()[2:])
    peers = {
        "local": Lines([local], b"local"),
        "known": Lines([remote], b"known", keys=keys),
        "stranger": Lines([remote], b"stranger", keys=stranger_keys),
        "plaintext": Lines([remote], b"plaintext"),
    }
    try:
        for name, lines in peers.items():
            lines.send(0, [Cancel(name)])
        await until(lambda: len(heard) == 2)
        await asyncio.sleep(1.0)  # The others try again and again.
        assert sorted(heard) == [(b"known", Cancel("known")), (b"local", Cancel("local"))]
        hub.send(b"known", [Cancel("answer")])
        found: list[Any] = []
        await until(lambda: bool(found.extend(each.message for each in peers["known"].arrived()) or found[1:]))
        assert found[-1] == Cancel("answer")
        assert caplog.text.count("a peer with an unknown key is refused") == 1
    finally:
        hub.close()
        for lines in peers.values():
            lines._context.destroy(0)


async def test_a_peer_does_not_speak_to_a_hub_with_other_keys() -> None:
    """A hub that another has put in the place of ours gets nothing."""
    remote, heard = f"tcp://127.0.0.1:{free_ports()[0]}", list[Any]()
    hub = Hub([remote], lambda name, message: heard.append(message), lambda name: None, new_keys())
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        secure_line(sock, new_keys())
        sock.linger = 0
        sock.connect(remote)
        sock.send(b"secret")
        await asyncio.sleep(0.5)
    hub.close()
    assert heard == []
