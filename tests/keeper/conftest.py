"""The server that these tests share."""

from collections.abc import Iterator

import pytest
from serving import Server, Stubs, shared


@pytest.fixture(scope="session")
def server() -> Server:
    return shared()


@pytest.fixture(scope="session")
def stubs(server: Server) -> Iterator[Stubs]:
    with server.channel() as channel:
        yield Stubs.of(channel)
