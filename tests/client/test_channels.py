"""Channels of the caller's own, certificates of clients, variables of the environment, and retries of a full server."""

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

import gradserve
from gradserve import AsyncClient, Client, cli
from gradserve.cli import options
from gradserve.transport import environment

from .fake import FakeServer

PHOTO = np.full((8, 8, 3), 100, np.uint8)
KINDS = [Client, AsyncClient]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (environment.SERVER, environment.TLS, environment.CA, environment.TOKEN):
        monkeypatch.delenv(name, raising=False)


class Noting(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Keeps the names of the calls that it sees."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.seen.append(details.method.rpartition("/")[2])
        return continuation(details, request)

    intercept_unary_stream = intercept_unary_unary


class NotingAsync(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.seen.append(details.method.decode().rpartition("/")[2])
        return await continuation(details, request)


class Relay:
    """Passes the bytes of one connection on, and counts those that the client sends."""

    def __init__(self, target: str) -> None:
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._port = int(target.rpartition(":")[2])
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Relay":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        caller, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._port))
        threading.Thread(target=self._pass_on, args=(server, caller, False), daemon=True).start()
        self._pass_on(caller, server, True)

    def _pass_on(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.sent += len(data) * counted
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


# A channel, options, interceptors, compression


def test_a_channel_of_the_callers_is_used_and_left_open(server: FakeServer) -> None:
    noting = Noting()
    with grpc.insecure_channel(server.target) as channel:
        for _ in range(2):
            with Client(channel=grpc.intercept_channel(channel, noting), token="open sesame", timeout=10) as client:
                assert client.predict(PHOTO, model="secret").top
    assert noting.seen == ["Predict", "Predict"]


async def test_a_channel_for_asyncio_is_used_and_left_open(server: FakeServer) -> None:
    async with grpc.aio.insecure_channel(server.target) as channel:
        for _ in range(2):
            async with AsyncClient(channel=channel, timeout=10) as client:
                assert (await client.predict(PHOTO)).top


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"target": "h:1"}, "target"),
        ({"tls": True, "compression": "gzip"}, "tls, compression"),
        ({"retries": 0, "connections": 1}, "retries, connections"),
        ({"options": [("a", 1)], "interceptors": [Noting()]}, "options, interceptors"),
        ({"certificate": "a", "key": "b"}, "certificate, key"),
    ],
)
def test_a_channel_goes_with_nothing_that_it_has_itself(settings: dict[str, Any], names: str) -> None:
    text = f"^{names}: a channel has its own"
    with grpc.insecure_channel("127.0.0.1:9") as channel, pytest.raises(ValueError, match=text):
        Client(channel=channel, **settings)


def test_settings_beside_a_channel_that_say_nothing() -> None:
    with grpc.insecure_channel("127.0.0.1:9") as channel:
        Client(channel=channel, options=[], interceptors=[], tls=False).close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"compression": ["gzip"]}, r"compression must be one of gzip, deflate; not \['gzip'\]"),
        ({"connections": 1.5}, r"connections is a whole number from 1 on, not 1.5"),
        ({"connections": True}, r"connections is a whole number from 1 on, not True"),
        ({"connections": 0}, r"connections is a whole number from 1 on, not 0"),
        ({"retries": 1.5}, r"retries is 0 to 4 .*, not 1.5"),
    ],
)
def test_settings_that_are_nothing_of_the_kind(kind: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kind("h:1", **settings)


def test_a_channel_of_the_other_kind_is_refused() -> None:
    with grpc.insecure_channel("127.0.0.1:9") as channel, pytest.raises(TypeError, match=r"is a grpc.aio.Channel"):
        AsyncClient(channel=channel)
    for kind in KINDS:
        with pytest.raises(TypeError, match=r"channel is a grpc.*Channel here, not 'h:1'"):
            kind(channel="h:1")


def test_interceptors_see_every_call(server: FakeServer) -> None:
    noting = Noting()
    with Client(server.target, interceptors=[noting], timeout=10) as client:
        client.predict(PHOTO)
        assert list(client.stylize_stream(PHOTO, PHOTO))
        assert client.health() == "SERVING"
    assert noting.seen == ["Predict", "StreamStylize", "Check"]


async def test_interceptors_of_asyncio_see_every_call(server: FakeServer) -> None:
    noting = NotingAsync()
    async with AsyncClient(server.target, interceptors=[noting], timeout=10) as client:
        await client.predict(PHOTO)
    assert noting.seen == ["Predict"]


@pytest.mark.parametrize(("kind", "wrong"), [(Client, NotingAsync()), (AsyncClient, Noting()), (Client, print)])
def test_interceptors_of_the_other_kind_are_refused(kind: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^interceptors: .* is none of grpc"):
        kind("h:1", interceptors=[wrong])


def test_interceptors_are_a_list() -> None:
    with pytest.raises(TypeError, match="interceptors is a list"):
        Client("h:1", interceptors=Noting())  # type: ignore[arg-type]


def test_options_of_the_callers_win(server: FakeServer) -> None:
    small, too_large = [("grpc.max_receive_message_length", 10)], pytest.raises(gradserve.ResourceExhausted)
    with Client(server.target, options=small, timeout=10) as client, too_large:
        client.predict(PHOTO)
    with Client(server.target, options={"grpc.primary_user_agent": "mine"}, timeout=10) as client:
        client.predict(PHOTO)
    assert server.metadata["user-agent"].startswith("mine ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [7, ["grpc.x"], [("a", 1, 2)], [(1, 2)]])
def test_what_are_no_options(kind: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"options are \(name, value\) pairs, or a dictionary"):
        kind("h:1", options=wrong)


@pytest.mark.parametrize("compression", ["gzip", "deflate", grpc.Compression.Gzip])
def test_requests_are_compressed(server: FakeServer, compression: Any) -> None:
    """Seen on the wire: 3 MB of one colour are sent in a hundredth of that."""
    sizes = []
    for chosen in (None, compression):
        with Relay(server.target) as relay, Client(relay.target, compression=chosen, timeout=20) as client:
            client.predict(np.full((1000, 1000, 3), 7, np.uint8))
            sizes.append(relay.sent)
    assert sizes[0] > 3_000_000
    assert sizes[1] < 30_000


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_compression_names_the_others(kind: Any) -> None:
    with pytest.raises(ValueError, match="compression must be one of gzip, deflate; not 'zip'"):
        kind("h:1", compression="zip")


# Certificates


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and certificates that it signed for a server at 127.0.0.1 and a client."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "extension").write_text("subjectAltName=IP:127.0.0.1")
    new = ["req", "-newkey", "rsa:2048", "-nodes"]
    commands = [[*new, "-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"]]
    for name in ("server", "client"):
        commands.append([*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr"])
        by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extension"]
        commands.append(["x509", "-req", "-days", "2", "-in", f"{name}.csr", *by, "-out", f"{name}.pem"])
    for command in commands:
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture
def guarded(folder: Path) -> Iterator[str]:
    """The address of a server that asks clients for certificates."""
    key, chain, roots = ((folder / name).read_bytes() for name in ("server.key", "server.pem", "ca.pem"))
    fake = FakeServer()
    credentials = grpc.ssl_server_credentials([(key, chain)], roots, require_client_auth=True)
    port = fake.server.add_secure_port("127.0.0.1:0", credentials)
    fake.server.start()
    yield f"127.0.0.1:{port}"
    fake.server.stop(None)


def test_a_client_shows_its_certificate(folder: Path, guarded: str) -> None:
    pair: dict[str, Any] = {"certificate": folder / "client.pem", "key": str(folder / "client.key")}
    with Client(guarded, tls=folder / "ca.pem", timeout=10, **pair) as client:
        assert client.predict(PHOTO).top
    unreached = pytest.raises((gradserve.Unavailable, gradserve.DeadlineExceeded))
    with Client(guarded, tls=folder / "ca.pem", timeout=2, retries=0) as client, unreached:
        client.predict(PHOTO)


def test_a_command_shows_a_certificate(folder: Path, guarded: str, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["--certificate", str(folder / "client.pem"), "--key", str(folder / "client.key")]
    with pytest.raises(SystemExit) as ended:
        cli.main(["health", "--server", guarded, "--ca", str(folder / "ca.pem"), *pair])
    assert not ended.value.code
    assert "SERVING" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_certificates_that_cannot_be_used(folder: Path, kind: Any) -> None:
    certificate, key = folder / "client.pem", folder / "client.key"
    for settings, text in (
        ({"certificate": certificate}, "^key is missing: "),
        ({"key": key}, "^certificate is missing: "),
        ({"certificate": key, "key": key}, "^certificate: .*client.key holds no certificate in PEM"),
        ({"certificate": certificate, "key": certificate}, "^key: .*client.pem holds no private key in PEM"),
        ({"tls": folder / "extension"}, "^tls: .*extension holds no certificate"),
        ({"tls": False, "certificate": certificate, "key": key}, "over TLS only"),
    ):
        with pytest.raises(ValueError, match=text):
            kind("h:1", **settings)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pem"):
        kind("h:1", tls=folder / "nowhere.pem")
    with pytest.raises(TypeError, match=r"^tls is the path of a file"):
        kind("h:1", tls=3)


# The environment


def test_the_environment_says_which_server(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSERVE_SERVER", server.target)
    monkeypatch.setenv("GRADSERVE_TOKEN", "open sesame")
    with Client(timeout=10) as client:
        assert client.predict(PHOTO, model="secret").top
    with Client(token="", timeout=10) as client, pytest.raises(gradserve.Unauthenticated):
        client.predict(PHOTO, model="secret")
    monkeypatch.setenv("GRADSERVE_SERVER", "127.0.0.1:9")
    with Client(server.target, token="another", timeout=10) as client:
        client.predict(PHOTO)
    assert server.metadata["authorization"] == "Bearer another"


def test_without_variables_it_is_a_server_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        if value is not None:
            monkeypatch.setenv("GRADSERVE_SERVER", value)
        with Client() as client:
            assert client.target == "127.0.0.1:50051"


@pytest.mark.parametrize("named", [True, False])
def test_the_environment_says_whom_to_trust(
    folder: Path, guarded: str, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    monkeypatch.setenv("GRADSERVE_SERVER", guarded)
    monkeypatch.setenv("GRADSERVE_CA", str(folder / "ca.pem"))
    pair: dict[str, Any] = {"certificate": folder / "client.pem", "key": folder / "client.key"}
    with Client(guarded if named else None, timeout=10, **pair) as client:
        assert client.predict(PHOTO).top


@pytest.mark.parametrize(("value", "tls"), [("1", True), ("True", True), ("on", True), ("no", False), ("", False)])
def test_the_environment_says_whether_to_use_tls(monkeypatch: pytest.MonkeyPatch, value: str, tls: bool) -> None:
    monkeypatch.setenv("GRADSERVE_TLS", value)
    monkeypatch.setenv("GRADSERVE_SERVER", "h:1")
    with Client("h:1") as client:
        assert client._endpoint.tls is tls
    with Client("h:1", tls=False) as client:
        assert not client._endpoint.tls


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_that_no_header_can_hold(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for token, flaw in (("secret\n", "a line break"), ("s\x07secret", "another"), ("sécret", "another")):
        with pytest.raises(ValueError, match=f"^token consists of printable .* has {flaw}") as said:
            kind("h:1", token=token)
        assert token.strip() not in str(said.value)
    with pytest.raises(TypeError, match=r"^token is a text, not bytes"):
        kind("h:1", token=b"secret")
    monkeypatch.setenv("GRADSERVE_TOKEN", "secret\n")
    with pytest.raises(ValueError, match=r"^token"):
        kind()


async def test_another_server_gets_nothing_of_the_environment(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRADSERVE_SERVER", f"grpcs://{server.target}")
    monkeypatch.setenv("GRADSERVE_TOKEN", "open sesame")
    for variable, value in (("GRADSERVE_TLS", "1"), ("GRADSERVE_CA", str(tmp_path / "nowhere.pem"))):
        monkeypatch.setenv(variable, value)
        with Client(server.target, timeout=10) as client:
            assert client.predict(PHOTO).top
        assert "authorization" not in server.metadata
        with grpc.insecure_channel(server.target) as channel, Client(channel=channel, timeout=10) as client:
            assert client.predict(PHOTO).top
        assert "authorization" not in server.metadata
        async with AsyncClient(server.target, timeout=10) as asynchronous:
            assert (await asynchronous.predict(PHOTO)).top
        assert "authorization" not in server.metadata


@pytest.mark.parametrize("tls", [[], ["--tls"]])
def test_the_command_takes_the_environment_for_every_server(
    folder: Path, guarded: str, monkeypatch: pytest.MonkeyPatch, tls: list[str]
) -> None:
    monkeypatch.setenv("GRADSERVE_SERVER", "127.0.0.1:9")
    monkeypatch.setenv("GRADSERVE_CA", str(folder / "ca.pem"))
    monkeypatch.setenv("GRADSERVE_TOKEN", "open sesame")
    pair = ["--certificate", str(folder / "client.pem"), "--key", str(folder / "client.key")]
    with pytest.raises(SystemExit) as ended:
        cli.main(["health", "--server", guarded, *tls, *pair])
    assert not ended.value.code
    assert options.Connection(guarded).endpoint().metadata == [("authorization", "Bearer open sesame")]


def test_a_variable_that_says_neither_yes_nor_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSERVE_TLS", "maybe")
    with pytest.raises(ValueError, match=r"GRADSERVE_TLS must be one of 1, true, .*; not 'maybe'"):
        Client()


# A full server


def test_a_full_server_is_asked_again_as_often_as_allowed(server: FakeServer) -> None:
    with Client(server.target, retries_when_full=2, timeout=10) as client:
        assert client.predict(PHOTO, model="full:2").top
        with pytest.raises(gradserve.ResourceExhausted) as caught:
            client.predict(PHOTO, model="full:3")
    assert caught.value.retry_after == 0.02
    assert len(server.requests) == 3 + 3


async def test_a_full_server_is_asked_again_in_asyncio_and_by_streams(server: FakeServer) -> None:
    async with AsyncClient(server.target, retries_when_full=1, timeout=10) as client:
        assert (await client.predict(PHOTO, model="full:1")).top
        events = [event async for event in client.stylize_stream(PHOTO, PHOTO, model="full:01")]
    assert isinstance(events[-1], gradserve.StylizedImage)
    assert len(server.requests) == 2 + 2


def test_by_default_a_full_server_is_not_asked_again(client: Client, server: FakeServer) -> None:
    with pytest.raises(gradserve.ResourceExhausted):
        client.predict(PHOTO, model="full:1")
    assert len(server.requests) == 1


def test_a_delay_beyond_the_deadline_is_not_waited_for(server: FakeServer) -> None:
    """The server "full" names 2.5 s."""
    with Client(server.target, retries_when_full=5, timeout=2) as client, pytest.raises(gradserve.ResourceExhausted):
        client.predict(PHOTO, model="full")
    assert len(server.requests) == 1


async def test_without_a_timeout_a_call_has_no_deadline(server: FakeServer) -> None:
    with Client(server.target, timeout=None, retries_when_full=1) as client:
        assert client.predict(PHOTO).top
        assert client.predict(PHOTO, model="full:1").top
        assert client.stylize(PHOTO, PHOTO, timeout=5).png
        assert client.health() == "SERVING"
    async with AsyncClient(server.target, timeout=None) as asynchronous:
        assert (await asynchronous.predict(PHOTO)).top


def test_other_errors_are_not_asked_again(server: FakeServer) -> None:
    with Client(server.target, retries_when_full=5, timeout=10) as client, pytest.raises(gradserve.NotFound):
        client.predict(PHOTO, model="missing")
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [-1, 1.5, "3", True])
def test_a_number_of_retries_is_a_whole_one(kind: Any, wrong: Any) -> None:
    with pytest.raises(ValueError, match="retries_when_full is a whole number from 0 on"):
        kind("h:1", retries_when_full=wrong)
