"""What the command line says of a server that does not answer."""

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from gradserve import cli
from gradserve.transport import reach
from gradserve.transport.channel import Endpoint

from .fake import FakeServer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """The certificate of `localhost`, signed by itself; its key is beside it."""
    folder = tmp_path_factory.mktemp("tls")
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name, *files]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "cert.pem"


@pytest.fixture
def secure(certificate) -> Iterator[str]:
    """The address of a server that speaks TLS."""
    fake = FakeServer()
    pair = (certificate.with_name("key.pem").read_bytes(), certificate.read_bytes())
    port = fake.server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    fake.server.start()
    yield f"localhost:{port}"
    fake.server.stop(None)


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of something that hangs up at once."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def why(target: str, *, tls: object = None, late: bool = False) -> str:
    return reach.cause(Endpoint(target, tls, None, 0), late=late)


def predict(photo: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", str(photo), *options])
    return ended.value.code, capsys.readouterr().err


def test_a_port_where_nobody_listens(photo_path, capsys):
    code, err = predict(photo_path, capsys, "--server", "127.0.0.1:1")
    first, second, *_ = err.splitlines()
    assert code == 1
    assert first.startswith("error: nobody listens on 127.0.0.1:1: `gradserve serve` starts a server")
    assert second.startswith("  (")
    assert "refused" in second


def test_a_socket_and_a_host_that_do_not_exist(tmp_path):
    assert why(f"unix:{tmp_path}/x.sock").startswith(f"nobody listens on unix:{tmp_path}/x.sock")
    assert why("gradserve.invalid:50051") == "no host is called gradserve.invalid"


def test_a_server_that_speaks_tls_is_asked_without(secure, photo_path, capsys, certificate):
    code, err = predict(photo_path, capsys, "--server", secure)
    assert code == 1
    assert err.startswith(f"error: {secure} speaks TLS: give --tls, or --ca FILE")
    for target in (secure, f"grpcs://{secure}"):
        assert predict(photo_path, capsys, "--server", target, "--ca", str(certificate))[0] in (0, None)


def test_a_server_without_tls_is_asked_with_it(server, photo_path, capsys):
    for options in (["--server", f"https://{server.target}"], ["--server", server.target, "--tls"]):
        code, err = predict(photo_path, capsys, *options)
        assert code == 1
        assert f"error: {server.target} speaks no TLS: leave --tls and --ca out" in err


def test_a_certificate_that_is_not_trusted(secure):
    assert "--ca FILE says whom to trust" in why(secure, tls=True)


def test_what_speaks_neither(mute):
    assert why(mute) == f"{mute} speaks neither gRPC nor TLS"


def test_an_answer_that_comes_too_late(server, photo_path, capsys):
    options = ("--server", server.target, "--model", "slow", "--timeout", "0.2")
    code, err = predict(photo_path, capsys, *options)
    assert code == 1
    assert err.startswith(f"error: a server listens on {server.target}, but did not answer in time: --timeout allows")
    assert why(server.target) == ""


def test_nothing_is_told_behind_a_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert why("example.org:50051") == ""
