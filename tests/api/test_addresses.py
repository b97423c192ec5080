"""Where the server listens: IPv6, unix sockets, and what it says of them."""

import socket
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE, Server, picture

from gradserve import Client
from gradserve_server.api.management import KeeperChanges
from gradserve_server.api.server import ApiServer
from gradserve_server.config import LimitSettings, ServerSettings
from gradserve_server.keeper.keeper import open_to_all
from gradserve_server.metrics import Metrics

PIXELS = picture(0, 8, 8)
NO_CHANGES = KeeperChanges(lambda message: None)  # Nobody makes any.


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def hosts(tmp_path: Path) -> dict[str, str]:
    return {"unix": f"unix:{tmp_path}/gradserve.sock", "IPv6": "::1", "IPv6 in brackets": "[::1]"}


@pytest.mark.parametrize("name", ["unix", "IPv6", "IPv6 in brackets"])
def test_clients_take_the_address_that_is_printed(tmp_path: Path, name: str) -> None:
    if name != "unix" and not has_ipv6():
        pytest.skip("needs IPv6")
    host = hosts(tmp_path)[name]
    metrics_host = "127.0.0.1" if name == "unix" else host
    with Server("[models.digits]", "--workers", "1", "--host", host, "--metrics-host", metrics_host) as server:
        assert server.address.startswith(host if name == "unix" else "[::1]:")
        assert server.said("metrics").startswith("http://127.0.0.1:" if name == "unix" else "http://[::1]:")
        assert server.metrics()
        with Client(server.address, timeout=PATIENCE) as client:
            assert client.health() == "SERVING"
            assert client.model().name == "digits"
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:7"),
        ("::1", "[::1]:7"),
        ("[::1]", "[::1]:7"),
        ("::", "[::]:7"),
        ("localhost", "localhost:7"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_addresses_as_clients_write_them(host: str, address: str) -> None:
    assert ServerSettings(host=host).address(7) == address


async def test_a_second_server_does_not_take_the_socket_away(tmp_path: Path) -> None:
    settings = ServerSettings(host=f"unix:{tmp_path}/x.sock")
    pool: Any = None
    first, second = (ApiServer(settings, LimitSettings(), pool, Metrics(), changes=NO_CHANGES) for _ in range(2))
    assert await first.start() == settings.host
    try:
        with pytest.raises(OSError, match=r"cannot listen on unix:.*x\.sock: another process does"):
            await second.start()
    finally:
        await first.stop()
    with socket.socket(socket.AF_UNIX) as stale:
        Path(settings.host.removeprefix("unix:")).unlink(missing_ok=True)
        stale.bind(settings.host.removeprefix("unix:"))  # A server that was killed left it behind.
    third = ApiServer(settings, LimitSettings(), pool, Metrics(), changes=NO_CHANGES)
    assert await third.start() == settings.host
    await third.stop()


@pytest.mark.parametrize(
    ("flag", "host", "says"),
    [
        ("--host", "unix:/no/such/folder/x", "cannot listen on unix:/no/such/folder/x"),
        ("--host", "", "server.host"),
        ("--host", "::zz", "cannot listen on [::zz]:0"),
        ("--metrics-host", "::zz", "cannot listen for metrics on [::zz]:0"),
        ("--metrics-host", "unix:/x", "cannot listen for metrics on [unix:/x]:0"),
    ],
)
def test_where_nothing_can_listen(flag: str, host: str, says: str) -> None:
    with Server("", flag, host) as server:
        assert server.process.wait(PATIENCE) == 2
        assert says in server.log()
        assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, []),
        ({"host": "::1"}, []),
        ({"host": "unix:/run/gradserve.sock"}, []),
        ({"host": "0.0.0.0"}, ["token", "TLS"]),
        ({"host": "::", "token_file": "tokens"}, ["TLS"]),
        ({"host": "10.0.0.7", "tls_certificate": "a", "tls_key": "b"}, ["token"]),
        ({"host": "0.0.0.0", "tls_certificate": "a", "tls_key": "b", "token_file": "tokens"}, []),
    ],
)
def test_a_service_that_is_open_to_all_is_warned_of(settings: dict[str, str], warned: list[str]) -> None:
    text = open_to_all(ServerSettings.model_validate(settings))
    assert [word for word in ("token", "TLS") if f"without {word}" in text or f"without a {word}" in text] == warned
    assert bool(text) is bool(warned)
