"""The server that these tests share, and workers that do what they are told."""

from collections.abc import Iterator

import pytest
from serving import Server, Stubs, shared

from gradserve_server.pool import pool, restarts

from .scripted import Scripted


@pytest.fixture(scope="session")
def server() -> Server:
    return shared()


@pytest.fixture(scope="session")
def stubs(server: Server) -> Iterator[Stubs]:
    with server.channel() as channel:
        yield Stubs.of(channel)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[Scripted]:
    """The workers of a pool, which are no processes; successors of those that die are there at once."""
    Scripted.made = []
    Scripted.refusing = False
    monkeypatch.setattr(pool, "Handle", Scripted)
    monkeypatch.setattr(restarts, "FIRST_PAUSE_SECONDS", 0.0)
    return Scripted.made
