"""Addresses, proxies, event loops: what leads a client to its server, or says why not."""

import asyncio
import contextlib
import gc
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator

import grpc
import pytest

import gradserve
from gradserve import AsyncClient, Client, cli
from gradserve.transport import address

from .fake import FakeServer

PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that refuses everything, and the first lines of what it was asked."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listener.accept()
                with caller:
                    heard.append(caller.recv(4096).split(b"\r\n")[0])
                    caller.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    threading.Thread(target=serve, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}", heard
    listener.close()


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("", "address is empty; write HOST:PORT, such as"),
        ("  ", "address is empty"),
        ("localhost", "'localhost' has no port"),
        ("[::1]", "has no port"),
        (":50051", "has no host"),
        ("::1", "stands in brackets"),
        ("::1:50051", r"stands in brackets before its port, as in \[::1\]:50051"),
        ("localhost:http", "a port is a number from 1 to 65535, not 'http'"),
        ("localhost:0", "not '0'"),
        ("localhost:70000", "not '70000'"),
        ("http://localhost:50051/x", "has no path; write http://localhost:50051"),
        ("grpcs://localhost", "'localhost' has no port"),
        ("unix:", "names no socket"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_address(kind, target, says):
    with pytest.raises(ValueError, match=says):
        kind(target)


@pytest.mark.parametrize(
    "target", ["h:1", "[::1]:50051", "unix:x.sock", "unix:/run/x", "unix:///run/x", "dns:///h:1", "unix-abstract:x"]
)
def test_what_is_one(target):
    assert address.checked(target) == target


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("grpc://h:1", ("h:1", False)),
        ("http://[::1]:50051/", ("[::1]:50051", False)),
        ("grpcs://h:1", ("h:1", True)),
        ("HTTPS://h:1/", ("h:1", True)),
        ("dns:///h:1", ("dns:///h:1", False)),
    ],
)
def test_urls_are_addresses_too(target, parts):
    assert address.split(target) == parts


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_url_reaches_the_server(server, photo, scheme):
    with Client(f"{scheme}://{server.target}", timeout=10) as client:
        assert client.predict(photo).top
        client.wait_until_ready(5)


def test_the_command_line_says_what_an_address_is(photo_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(photo_path), "--server", ""])
    assert ended.value.code
    assert "address is empty" in capsys.readouterr().err


def test_ipv6_and_unix_sockets(photo, tmp_path, monkeypatch):
    fake = FakeServer()
    path = tmp_path / "gradserve.sock"
    assert fake.server.add_insecure_port(f"unix:{path}")
    port = fake.server.add_insecure_port("[::1]:0")
    fake.server.start()
    try:
        for target in (f"unix:{path}", f"unix://{path}", *([f"[::1]:{port}"] if port else [])):
            with Client(target, timeout=10) as client:
                assert client.predict(photo).top
                client.wait_until_ready(5)
        monkeypatch.chdir(tmp_path)
        with Client("unix:gradserve.sock", timeout=10) as client:
            assert client.predict(photo).top
    finally:
        fake.server.stop(None)


def test_a_client_for_asyncio_in_several_loops(server, photo):
    """Made where no loop runs, and used in one after the other, with and without `async with`."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client = AsyncClient(server.target, timeout=10)

    async def open_and_close() -> str:
        async with client:
            return (await client.predict(photo)).top[0].class_name

    async def plain() -> str:
        assert await client.health() == "SERVING"
        return [event async for event in client.stylize_stream(photo, photo)][-1].provenance.model

    assert [asyncio.run(each()) for each in (open_and_close, plain, plain, open_and_close)] == [
        "goldfish",
        "tiny",
        "tiny",
        "goldfish",
    ]
    assert len(client._channels._by_loop) <= 1
    gc.collect()


async def test_after_closing_the_next_call_opens_another_channel(server, photo):
    client = AsyncClient(server.target, timeout=10)
    for _ in range(2):
        async with client:
            assert (await client.predict(photo)).top
    await client.close()


def test_loops_in_several_threads(server, photo):
    client, found = AsyncClient(server.target, timeout=10), []

    async def ask() -> None:
        for _ in range(3):
            found.append((await client.predict(photo)).top[0].class_name)
        await client.close()

    threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == ["goldfish"] * 9


def test_a_process_that_used_several_loops_ends(server, tmp_path, photo_path):
    code = f"""
import asyncio, gradserve
client = gradserve.AsyncClient({server.target!r}, timeout=10)
async def ask():
    return (await client.predict({str(photo_path)!r})).top[0].class_name
print(*[asyncio.run(ask()) for _ in range(4)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["goldfish"] * 4), done.stderr


def test_a_client_for_asyncio_outside_a_loop_says_so(server):
    client = AsyncClient(server.target)
    with pytest.raises(RuntimeError, match="no running event loop"):
        client._stubs  # noqa: B018


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_a_proxy_that_fails_is_named_without_its_password(monkeypatch, proxy, photo, variable):
    where, heard = proxy
    monkeypatch.setenv(variable, f"http://user:secret@{where}")
    with Client("gradserve.invalid:50051", timeout=20, retries=0) as client:
        with pytest.raises((gradserve.Unavailable, gradserve.DeadlineExceeded)) as caught:
            client.predict(photo)
        with pytest.raises(gradserve.DeadlineExceeded, match=f"through the proxy of {variable}="):
            client.wait_until_ready(0.5)
    assert f"through the proxy of {variable}=http://{where}; to go past it" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert heard[0].startswith(b"CONNECT gradserve.invalid:50051")


async def test_a_proxy_is_named_by_the_client_for_asyncio(monkeypatch, proxy, photo):
    monkeypatch.setenv("http_proxy", f"http://{proxy[0]}")
    async with AsyncClient("gradserve.invalid:50051", timeout=20, retries=0) as client:
        with pytest.raises((gradserve.Unavailable, gradserve.DeadlineExceeded), match="proxy of http_proxy"):
            await client.predict(photo)


def test_this_machine_is_reached_past_the_proxy(monkeypatch, proxy, server, photo):
    monkeypatch.setenv("http_proxy", f"http://{proxy[0]}")
    port = server.target.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost"):
        with Client(f"{host}:{port}", timeout=20) as client:
            assert client.predict(photo).top
    assert not proxy[1]


def test_an_answer_of_the_server_does_not_blame_the_proxy():
    failure = type("Failure", (), {})()
    failure.code, failure.details = (lambda: grpc.StatusCode.UNAVAILABLE), (lambda: "the server is stopping")
    failure.trailing_metadata = lambda: (("x-request-id", "1"),)
    assert str(gradserve.errors.from_call(failure, "http_proxy=http://p")) == "the server is stopping"


@pytest.mark.parametrize(
    ("target", "exempt", "expected"),
    [
        ("example.org:1", "", "http_proxy=http://p:3128"),
        ("example.org:1", "example.com, other.net", "http_proxy=http://p:3128"),
        ("a.example.org:1", "x,.example.org", ""),
        ("dns:///example.org:1", "example.org", ""),
        ("[::1]:1", "", ""),
        ("127.3.2.1:1", "", ""),
        ("ipv4:127.0.0.1:5", "", ""),
        ("localhost:1", "", ""),
        ("unix:/tmp/x", "", ""),
        ("10.0.0.1:1", "", "http_proxy=http://p:3128"),
    ],
)
def test_which_addresses_go_through_a_proxy(monkeypatch, target, exempt, expected):
    monkeypatch.setenv("http_proxy", "http://p:3128")
    monkeypatch.setenv("no_proxy", exempt)
    assert address.proxy(target) == expected
