"""TLS with clients' certificates, and tokens with rights, over real connections, while the files change."""

import hashlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from serving import LINEAR, PATIENCE, Server, Stubs, methods, picture, refused

from gradserve.v1 import explain_pb2, models_pb2, predict_pb2
from gradserve_server.api import reflection

PICTURE = picture(0, 8, 8)
PREDICT = predict_pb2.PredictRequest(image=PICTURE)
EXPLAIN = explain_pb2.ExplainRequest(image=PICTURE, methods=methods(gradient={}))
WIDE = explain_pb2.ExplainRequest(image=PICTURE, methods=methods(smooth_grad={"samples": 2000}))
Metadata = tuple[tuple[str, str], ...]


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)


def authority(folder: Path, name: str) -> None:
    """NAME.pem and NAME.key of an authority."""
    files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
    openssl(folder, *["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"], "-subj", f"/CN={name}", *files)


def signed(folder: Path, name: str, by: str) -> tuple[bytes, bytes]:
    """Key and certificate for 127.0.0.1, signed by an authority; in NAME.key and NAME.pem too."""
    extension = folder / "extension"
    extension.write_text("subjectAltName=IP:127.0.0.1")
    files = ("-keyout", f"{name}.key", "-out", f"{name}.csr")
    openssl(folder, *["req", "-newkey", "rsa:2048", "-nodes"], "-subj", f"/CN={name}", *files)
    signer = ("-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-CAcreateserial", "-extfile", str(extension))
    openssl(folder, *["x509", "-req", "-days", "2", "-in"], f"{name}.csr", *signer, "-out", f"{name}.pem")
    return (folder / f"{name}.key").read_bytes(), (folder / f"{name}.pem").read_bytes()


def table(name: str, rights: str = "") -> str:
    return f'[{name}]\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n{rights}\n'


TOKENS = (
    table("looker", 'rpcs = ["Predict"]\nmodels = ["linear"]')
    + table("reader", "reflection = true")
    + table("slow", "gflop_per_second = 1e-9")
)


def token(name: str) -> Metadata:
    """In these tests a token is its name."""
    return (("authorization", f"Bearer {name}"),)


class Guarded:
    """A server with certificates on both sides and tokens with rights."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.channel = self.channel_as("client", "authority")
        self.stubs = Stubs.of(self.channel)

    def channel_as(self, client: str | None, root: str) -> grpc.Channel:
        """A connection of its own that shows that client's certificate and trusts that authority."""
        pair = [(self.folder / f"{client}.{end}").read_bytes() if client else None for end in ("key", "pem")]
        credentials = grpc.ssl_channel_credentials((self.folder / f"{root}.pem").read_bytes(), *pair)
        return grpc.secure_channel(self.server.address, credentials, [("grpc.use_local_subchannel_pool", 1)])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("rights")
    for name in ("authority", "stranger"):
        authority(folder, name)
    for name, by in (("server", "authority"), ("client", "authority"), ("intruder", "stranger")):
        signed(folder, name, by)
    (folder / "tokens.toml").write_text(TOKENS)
    config = f"""
    [server]
    tls_certificate = "{folder / "server.pem"}"
    tls_key = "{folder / "server.key"}"
    tls_client_ca = "{folder / "authority.pem"}"
    token_file = "{folder / "tokens.toml"}"
    [pool]
    workers = 1
    [models.digits]
    {LINEAR}"""
    with Server(config) as server:
        guarded = Guarded(server, folder)
        with guarded.channel:
            yield guarded


def code(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **options, timeout=30)
    return str(caught.value.code().name)


def test_a_client_needs_a_certificate_of_the_authority(guarded: Guarded) -> None:
    assert guarded.stubs.gradients.Predict(PREDICT, metadata=token("reader"), timeout=30).top
    for client, root in ((None, "authority"), ("intruder", "authority"), ("client", "stranger")):
        with guarded.channel_as(client, root) as channel:
            assert code(Stubs.of(channel).gradients.Predict, PREDICT, metadata=token("reader")) == "UNAVAILABLE"


def test_a_token_with_few_rights(guarded: Guarded) -> None:
    linear = predict_pb2.PredictRequest(model="linear", image=PICTURE)
    assert guarded.stubs.gradients.Predict(linear, metadata=token("looker"), timeout=30).top
    for call, request, text in (
        (guarded.stubs.gradients.Explain, EXPLAIN, "looker may not call Explain; it may call: Predict"),
        (guarded.stubs.gradients.Predict, PREDICT, "looker may not use digits; it may use: linear"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(request, metadata=token("looker"), timeout=30)
        failure = refused(caught.value)
        assert (failure.code, failure.reason, failure.text) == ("PERMISSION_DENIED", "NOT_ALLOWED", text)
    models = guarded.stubs.models
    listed = models.ListModels(models_pb2.ListModelsRequest(), metadata=token("looker"), timeout=30)
    assert [model.name for model in listed.models] == ["linear"]
    get = models_pb2.GetModelRequest(name="digits")
    assert code(models.GetModel, get, metadata=token("looker")) == "NOT_FOUND"
    assert models.GetModel(get, metadata=token("reader"), timeout=30).name == "digits"


def test_a_body_is_not_waited_for_without_the_right(guarded: Guarded) -> None:
    ended = threading.Event()

    def never() -> Iterator[bytes]:
        ended.wait(60)
        yield from ()

    call = guarded.channel.stream_unary("/gradserve.v1.GradientService/Attack")
    assert code(call, never(), metadata=token("looker")) == "PERMISSION_DENIED"
    ended.set()


@pytest.mark.parametrize("service", reflection.NAMES)
def test_reflection_is_a_right(guarded: Guarded, service: str) -> None:
    ask = guarded.channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )

    def services(name: str) -> list[str]:
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (reply,) = ask(asked, metadata=token(name), timeout=30)
        return [service.name for service in reply.list_services_response.service]

    assert "gradserve.v1.GradientService" in services("reader")
    for name, expected in (("looker", "PERMISSION_DENIED"), ("nobody", "UNAUTHENTICATED")):
        with pytest.raises(grpc.RpcError) as caught:
            services(name)
        assert caught.value.code().name == expected


def test_a_rate_and_what_tokens_have_used(guarded: Guarded) -> None:
    assert guarded.stubs.gradients.Explain(WIDE, metadata=token("slow"), timeout=PATIENCE).explanations
    with pytest.raises(grpc.RpcError) as caught:
        guarded.stubs.gradients.Predict(PREDICT, metadata=token("slow"), timeout=30)
    failure = refused(caught.value)
    assert failure.code == "RESOURCE_EXHAUSTED"
    assert failure.text.startswith("slow may use 1e-09 GFLOP a second, and has used more")
    assert guarded.server.metric("gradserve_rejected_total", reason="rate") == 1
    assert guarded.server.metric("gradserve_caller_gflop_total", caller="slow") > 0
    assert guarded.stubs.gradients.Predict(PREDICT, metadata=token("reader"), timeout=30).top


def test_tokens_and_certificates_change_while_requests_come(guarded: Guarded) -> None:
    """The last test of this server: nobody who has both the old and the new ones is refused."""
    failed: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                guarded.stubs.gradients.Predict(PREDICT, metadata=token("reader"), timeout=30)
            except grpc.RpcError as error:
                failed.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    tokens = guarded.folder / "tokens.toml"
    try:
        tokens.write_text(TOKENS + table("newcomer"))
        until(lambda: accepted(guarded, "newcomer"))
        tokens.write_text("[broken")
        time.sleep(2)
        assert accepted(guarded, "newcomer")
        tokens.write_text(table("reader"))
        until(lambda: not accepted(guarded, "newcomer"))
        authority(guarded.folder, "next")
        signed(guarded.folder, "server", "next")
        for _ in range(3):  # Each is a connection of its own.
            with guarded.channel_as("client", "next") as channel:
                assert Stubs.of(channel).gradients.Predict(PREDICT, metadata=token("reader"), timeout=30).top
        with guarded.channel_as("client", "authority") as channel:
            assert code(Stubs.of(channel).gradients.Predict, PREDICT, metadata=token("reader")) == "UNAVAILABLE"
    finally:
        done.set()
        thread.join()
    assert not failed
    log = guarded.server.log()
    assert "the new file of tokens is at fault, and the old one stays" in log
    assert "the files for TLS were read again" in log
    assert "Traceback" not in log


def accepted(guarded: Guarded, name: str) -> bool:
    call = guarded.stubs.gradients.Predict.future(PREDICT, metadata=token(name), timeout=30)
    status = call.code()  # Waits for the end.
    assert status in (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED)
    return bool(status == grpc.StatusCode.OK)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
