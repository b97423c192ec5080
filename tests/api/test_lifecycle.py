"""From starting to stopping: health, reflection, TLS, token, limits, draining, and starts that fail."""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import torch
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_database import DescriptorDatabase
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from serving import PATIENCE, Server, Stubs, methods, picture, refused

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2, influence_pb2, models_pb2, predict_pb2
from gradserve_server.__main__ import main
from gradserve_server.api import reflection
from gradserve_server.api.management import KeeperChanges
from gradserve_server.api.server import SERVICES, ApiServer
from gradserve_server.config import LimitSettings, ServerSettings
from gradserve_server.metrics import Metrics
from gradserve_server.models.catalogue import EMBEDDED
from gradserve_server.models.preparation import prepare
from gradserve_server.models.served import ServedModels
from gradserve_server.pool.pool import Pool
from gradserve_server.pool.wire import Outcome

grpc.aio.init_grpc_aio()  # It is held until the process ends: shut down between two event loops it can wait for itself.
NO_CHANGES = KeeperChanges(lambda message: None)  # Nobody makes any.
PREDICT = predict_pb2.PredictRequest(image=picture(0, 8, 8))
LONG = explain_pb2.ExplainRequest(image=picture(0, 8, 8), methods=methods(smooth_grad={"samples": 2000}) * 4)


@asynccontextmanager
async def listening(
    pool: Any, drain_seconds: float = 1, **limits: Any
) -> AsyncIterator[tuple[ApiServer, str, Metrics]]:
    """The front-end in this process before a pool of one's own."""
    metrics = Metrics()
    settings = ServerSettings(port=0, drain_seconds=drain_seconds)
    server = ApiServer(settings, LimitSettings(**limits), pool, metrics, changes=NO_CHANGES)
    address = await server.start()
    try:
        yield server, address, metrics
    finally:
        await server.stop()


async def status(channel: grpc.aio.Channel, service: str = "") -> str:
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


async def failure(call: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return refused(caught.value)


class Waiting:
    """A pool whose tasks wait for `go`."""

    def __init__(self) -> None:
        card = prepare(EMBEDDED["digits"], torch.device("cpu")).card
        self.cards, self.alive, self.begun, self.go = ServedModels([card]), True, 0, asyncio.Event()
        self.error: Exception | None = None
        self.members, self.outstanding, self.queue_seconds = [], 0.0, None

    @contextmanager
    def using(self) -> Iterator[ServedModels]:
        yield self.cards

    async def stream(self, task: Any) -> AsyncIterator[Outcome]:
        self.begun += 1
        await self.go.wait()
        if self.error:
            raise self.error
        yield Outcome(task.id, SimpleNamespace(logits=torch.arange(10.0).numpy()), rows=1)

    async def has_begun(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.begun < count:
                await asyncio.sleep(0.01)


async def test_nothing_is_served_until_everything_is_warm() -> None:
    pool = Pool([])
    with closing(pool):
        await nothing_is_served(pool)


async def nothing_is_served(pool: Pool) -> None:
    async with listening(pool) as (server, address, _), grpc.aio.insecure_channel(address) as channel:
        stubs = Stubs.of(channel)
        for service in ("", *SERVICES):
            assert await status(channel, service) == "NOT_SERVING"
        for call in (
            stubs.gradients.Predict(PREDICT),
            stubs.gradients.Explain(LONG),
            stubs.models.ListModels(models_pb2.ListModelsRequest()),
            stubs.models.GetModel(models_pb2.GetModelRequest()),
        ):
            refusal = await failure(call)
            assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "NO_WORKER")
            assert "starting" in refusal.text
        await server.say(serving=True)
        for service in ("", *SERVICES):
            assert await status(channel, service) == "SERVING"


async def test_no_more_requests_than_allowed() -> None:
    pool = Waiting()
    limits = {"max_in_flight": 2, "caller_share": 1}
    async with listening(pool, **limits) as (_, address, metrics), grpc.aio.insecure_channel(address) as channel:
        stubs = Stubs.of(channel)
        running = [stubs.gradients.Predict(PREDICT) for _ in range(2)]
        await pool.has_begun(2)
        refusal = await failure(stubs.gradients.Predict(PREDICT))
        assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert refusal.retry_after > 0
        assert metrics.registry.get_sample_value("gradserve_rejected_total", {"reason": "in_flight"}) == 1
        pool.go.set()
        assert [(await call).top[0].class_index for call in running] == [9, 9]
        assert (await stubs.gradients.Predict(PREDICT)).top


async def test_while_draining_the_running_end_and_the_new_are_refused() -> None:
    pool = Waiting()
    async with listening(pool, drain_seconds=60) as (server, address, _), grpc.aio.insecure_channel(address) as channel:
        await server.say(serving=True)
        stubs = Stubs.of(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        running = stubs.gradients.Predict(PREDICT)
        await pool.has_begun(1)
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as late:
            assert (await failure(Stubs.of(late).gradients.Predict(PREDICT))).code == "UNAVAILABLE"
        pool.go.set()
        assert (await running).top[0].class_index == 9
        begun = time.monotonic()
        assert await stopping, "no request was ended before its time"
        assert time.monotonic() - begun < 30, "a watcher of the health does not hold up the end"


@pytest.mark.parametrize("seconds", [0.5, 60])
async def test_draining_has_an_end(seconds: float) -> None:
    """That of its time, or when it is asked for."""
    pool = Waiting()
    async with (
        listening(pool, drain_seconds=seconds) as (server, address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        running = Stubs.of(channel).gradients.Predict(PREDICT)
        await pool.has_begun(1)
        async with asyncio.timeout(10):
            stopping = asyncio.create_task(server.stop())
            await asyncio.sleep(0.2)
            if seconds > 10:
                server.cut_off()
            refusal = await failure(running)
            assert not await stopping
        assert refusal.code == "UNAVAILABLE"
        assert "stopped before the request was done" in refusal.text


async def test_a_fault_of_ours_is_internal_and_tells_nothing_but_its_id() -> None:
    pool = Waiting()
    pool.error = RuntimeError("secret")
    pool.go.set()
    async with listening(pool) as (_, address, metrics), grpc.aio.insecure_channel(address) as channel:
        call = Stubs.of(channel).gradients.Predict(PREDICT, metadata=(("x-request-id", "mine"),))
        refusal = await failure(call)
        assert refusal.code == "INTERNAL"
        assert "secret" not in refusal.text
        assert dict(await call.trailing_metadata())["x-request-id"].startswith("mine-")
        labels = {"grpc_service": SERVICES[0], "grpc_method": "Predict", "grpc_code": "INTERNAL"}
        assert metrics.registry.get_sample_value("grpc_server_handled_total", labels) == 1


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return cert, key


class Guarded:
    """A server with TLS, a token and a short queue."""

    def __init__(self, server: Server, cert: Path) -> None:
        self.server = server
        self.channel = grpc.secure_channel(server.address, grpc.ssl_channel_credentials(cert.read_bytes()))
        self.stubs = Stubs.of(self.channel)
        self.token = (("authorization", "Bearer sesame"),)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    cert, key = certificate(folder)
    (folder / "token").write_text("sesame\n")
    config = f"""
    [server]
    tls_certificate = "{cert}"
    tls_key = "{key}"
    token_file = "{folder / "token"}"
    drain_seconds = 300
    [pool]
    workers = 1
    queue_seconds = 0.001
    [models.digits]
    """
    with Server(config) as server:
        guarded = Guarded(server, cert)
        with guarded.channel:
            yield guarded


def test_tls_and_token(guarded: Guarded) -> None:
    assert guarded.stubs.gradients.Predict(PREDICT, metadata=guarded.token, timeout=PATIENCE).top
    with grpc.insecure_channel(guarded.server.address) as plain, pytest.raises(grpc.RpcError) as caught:
        Stubs.of(plain).gradients.Predict(PREDICT, metadata=guarded.token, timeout=5)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    for metadata in (None, (("authorization", "Bearer open"),), (("authorization", "sesame"),)):
        for rpc, request in (
            (guarded.stubs.gradients.Predict, PREDICT),
            (guarded.stubs.gradients.Explain, LONG),
            (guarded.stubs.models.ListModels, models_pb2.ListModelsRequest()),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                rpc(request, metadata=metadata, timeout=PATIENCE)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    two = (*guarded.token, *guarded.token)
    with pytest.raises(grpc.RpcError) as caught:
        guarded.stubs.gradients.Predict(PREDICT, metadata=two, timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    lower = (("authorization", f"bearer {guarded.token[0][1].split()[1]}"),)
    assert guarded.stubs.gradients.Predict(PREDICT, metadata=lower, timeout=30).top, "the scheme is in any case"
    with pytest.raises(grpc.RpcError) as caught:
        ProtoReflectionDescriptorDatabase(guarded.channel).get_services()
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    health = health_pb2_grpc.HealthStub(guarded.channel)
    for service in ("", *SERVICES):
        reply = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=PATIENCE)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("rpc", ["gradserve.v1.GradientService/Explain", "gradserve.v1.ModelService/GetModel"])
def test_without_a_token_no_body_is_waited_for(guarded: Guarded, rpc: str) -> None:
    """The client opens the call and never sends its request."""
    ended = threading.Event()

    def never() -> Iterator[bytes]:
        ended.wait(60)
        yield from ()

    with pytest.raises(grpc.RpcError) as caught:
        guarded.channel.stream_unary(f"/{rpc}")(never(), timeout=50)
    ended.set()
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_full_queue_says_when_to_come_back(guarded: Guarded) -> None:
    server = guarded.server
    rejected = server.metric("gradserve_rejected_total", reason="queue")
    running = guarded.stubs.gradients.Explain.future(LONG, metadata=guarded.token)
    until(lambda: server.metric("gradserve_cost_outstanding") > 0)
    with pytest.raises(grpc.RpcError) as caught:
        guarded.stubs.gradients.Explain(LONG, metadata=guarded.token)
    refusal = refused(caught.value)
    assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    assert refusal.retry_after is not None
    assert refusal.retry_after > 0
    assert "may wait 0.0 s" in refusal.text
    assert server.metric("gradserve_rejected_total", reason="queue") == rejected + 1
    patient = predict_pb2.PredictRequest(image=PREDICT.image, options={"priority": pb.PRIORITY_BATCH})
    assert guarded.stubs.gradients.Predict(patient, metadata=guarded.token, timeout=PATIENCE).top, "batch work may wait"
    running.cancel()
    until(lambda: server.metric("gradserve_cost_outstanding") == 0)


def test_sigterm_lets_running_requests_end(guarded: Guarded) -> None:
    """The last test of this server, since it ends it."""
    running = guarded.stubs.gradients.Explain.future(LONG, metadata=guarded.token)
    until(lambda: guarded.server.metric("gradserve_cost_outstanding") > 0)
    workers = guarded.server.workers
    assert guarded.server.stop() == 0
    assert [e.done for e in running.result().explanations] == [2000] * 4
    until(lambda: not any(worker.is_running() for worker in workers))
    assert "Traceback" not in guarded.server.log()


@pytest.mark.parametrize("signals", [1, 2])
def test_requests_that_are_cut_off_show_in_the_exit_code(signals: int) -> None:
    """With too little time to drain, and with a second signal, which ends the server at once."""
    config = f"[server]\ndrain_seconds = {0.5 if signals == 1 else 300}\n[pool]\nworkers = 1\n[models.digits]\n"
    with Server(config) as server, server.channel() as channel:
        running = Stubs.of(channel).gradients.Explain.future(LONG)
        until(lambda: server.metric("gradserve_cost_outstanding") > 0)
        for _ in range(signals):
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        with pytest.raises(grpc.RpcError) as caught:
            running.result()
        assert refused(caught.value).code == "UNAVAILABLE"
        assert server.process.wait(PATIENCE) == 3
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_tells_of_the_services(server: Server, version: str) -> None:
    """Of each with all that its description imports, and of itself."""

    def ask(**question: str) -> reflection_pb2.ServerReflectionResponse:
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        data = reflection_pb2.ServerReflectionRequest(**question).SerializeToString()
        (reply,) = channel.stream_stream(path)(iter([data]), timeout=PATIENCE)
        return reflection_pb2.ServerReflectionResponse.FromString(reply)

    with server.channel() as channel:
        names = {each.name for each in ask(list_services="").list_services_response.service}
        assert names == {*SERVICES, "grpc.health.v1.Health", *reflection.NAMES}
        database = DescriptorDatabase()
        for name in names:
            for data in ask(file_containing_symbol=name).file_descriptor_response.file_descriptor_proto:
                database.Add(FileDescriptorProto.FromString(data))
        pool = descriptor_pool.DescriptorPool(database)
        assert all(pool.FindServiceByName(name).methods for name in names)
        assert "Explain" in pool.FindServiceByName(SERVICES[0]).methods_by_name


def test_the_inference_protocol_is_off_unless_it_is_switched_on(server: Server) -> None:
    with server.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_health_lists_all_states(server: Server) -> None:
    with server.channel() as channel:
        reply = health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest(), timeout=PATIENCE)
    assert {name: each.status for name, each in reply.statuses.items()} == dict.fromkeys(("", *SERVICES), 1)


@pytest.mark.parametrize(
    "rpc",
    [
        "health.v1.Health/Check",
        "health.v1.Health/Watch",
        "reflection.v1.ServerReflection/ServerReflectionInfo",
        "reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_bytes_that_are_no_message_are_refused_by_grpcs_own_services_too(server: Server, rpc: str) -> None:
    with server.channel() as channel:
        call = channel.stream_stream(f"/grpc.{rpc}")(iter([b"\xff"]), timeout=PATIENCE)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the request is not a message of its type" in caught.value.details()
    assert "Traceback" not in server.log()


def test_every_metric_is_there_and_labels_are_ours(server: Server, stubs: Stubs) -> None:
    with pytest.raises(grpc.RpcError):
        stubs.gradients.Predict(
            predict_pb2.PredictRequest(model="a-name-of-the-callers", image=PREDICT.image), timeout=PATIENCE
        )
    stubs.gradients.Predict(PREDICT, timeout=PATIENCE)
    stubs.gradients.Explain(
        explain_pb2.ExplainRequest(image=PREDICT.image, methods=methods(smooth_grad={"samples": 7})), timeout=PATIENCE
    )
    found: set[str] = set()
    # These are there once there is something to count.
    rare = {"gradserve_rejected", "gradserve_attack_verdict", "gradserve_caller_gflop", "gradserve_model_changes"}

    def all_found() -> bool:
        found.update(family.name for family in server.metrics())
        return {family.name for family in Metrics().registry.collect()} - rare <= found

    until(all_found)
    assert {"grpc_server_started", "grpc_server_handled", "grpc_server_handling_seconds"} <= found
    values = {value for family in server.metrics() for sample in family.samples for value in sample.labels.values()}
    assert "a-name-of-the-callers" not in values
    assert server.metric("gradserve_rows_total", method="smooth_grad") >= 7
    assert server.metric("gradserve_rows_total", method="predict") >= 1
    assert server.metric("grpc_server_handled_total", grpc_method="Predict", grpc_code="NOT_FOUND") >= 1
    assert server.metric("gradserve_device_memory_bytes") > 1 << 20


def test_one_line_of_json_for_each_request(server: Server, stubs: Stubs) -> None:
    asked = explain_pb2.ExplainRequest(image=PREDICT.image, methods=methods(gradient={}, grad_cam={}))
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (("x-request-id", "find-me"), ("traceparent", f"00-{trace}-b7ad6b7169203331-01"))
    _, call = stubs.gradients.Explain.with_call(asked, metadata=metadata, timeout=PATIENCE)
    name = dict(call.trailing_metadata())["x-request-id"]
    assert name.startswith("find-me-")
    until(lambda: name in server.log())
    lines = [line[line.index("{") :] for line in server.log().splitlines() if name in line]
    assert len(lines) == 1
    facts = json.loads(lines[0])
    assert facts.pop("ms") > facts.pop("pass_ms") > 0
    assert facts.pop("queue_ms", 0.0) >= 0, "it is left out where the first pass began at once"
    assert 0 < facts.pop("deadline_ms") <= 1.01 * PATIENCE * 1000, "gRPC sends it rounded up"
    assert facts.pop("id") == name
    assert facts == {
        "caller": "ipv4:127.0.0.1",
        "rpc": "Explain",
        "model": "digits",
        "methods": "gradient,grad_cam",
        "rows": 3,
        "code": "OK",
        "size": "8x8",
        "trace": trace,
    }


@pytest.mark.parametrize(("asked", "logged"), [("no-such-model", "no-such-model"), ("x" * 500, "x" * 97 + "…")])
@pytest.mark.parametrize("message", [explain_pb2.ExplainRequest, influence_pb2.SuspectsRequest])
def test_the_line_of_a_refused_request(server: Server, stubs: Stubs, message: Any, asked: str, logged: str) -> None:
    rpc = message.DESCRIPTOR.name.removesuffix("Request")
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stubs.gradients, rpc)(message(model=asked), timeout=PATIENCE)
    name = dict(caught.value.trailing_metadata())["x-request-id"]
    until(lambda: name in server.log())
    (line,) = [line[line.index("{") :] for line in server.log().splitlines() if name in line]
    facts = json.loads(line)
    code = "NOT_FOUND" if rpc == "Suspects" else "INVALID_ARGUMENT"  # Explain lacks a picture too
    assert (facts["rpc"], facts["model"], facts["code"]) == (rpc, logged, code)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


def starting(*flags: str) -> int:
    return main(["--port", "0", "--metrics-port", "0", "--device", "cpu", "--workers", "1", *flags])


def test_a_port_in_use(taken_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert starting("--port", str(taken_port)) == 2
    assert f"cannot listen on 127.0.0.1:{taken_port}" in capsys.readouterr().err
    assert starting("--metrics-port", str(taken_port)) == 2
    assert "in use" in capsys.readouterr().err


CONFIGS = {
    "no toml": ("[server", "server.toml: Expected"),
    "no table": ("server = 3", "server.toml, [server]: this must be a table"),
    "unknown section": ("[servers]\nport = 1", "server.toml: unknown key servers; nearest: server"),
    "unknown key": ("[server]\nprot = 1", "server.toml, [server]: unknown key prot; nearest: port"),
    "wrong type": ('[server]\nport = "x"', "server.toml, [server]: port must be a valid integer"),
    "out of range": ("[pool]\nworkers = 0", "server.toml, [pool]: workers must be greater"),
    "no number of milliseconds": ("[server]\nmax_connection_age = 1e7", "max_connection_age must be less"),
    "no end": ("[server]\ndrain_seconds = inf", "server.toml, [server]: drain_seconds must be a finite number"),
    "no bound": ("[pool]\nqueue_seconds = inf", "server.toml, [pool]: queue_seconds must be a finite number"),
    "one half of TLS": ('[server]\ntls_key = "key.pem"', "belong together"),
    "no such token file": ('[server]\ntoken_file = "/nowhere/token"', "/nowhere/token"),
    "no such certificate": ('[server]\ntls_key = "/nowhere/k"\ntls_certificate = "/nowhere/c"', "/nowhere"),
    "models are no tables": ("models = 3", "[models.NAME]"),
    "unknown model": ("[models.resnet81]", "resnet18"),
    "unknown key of a model": ("[models.resnet18]\nweight = 1", "weight"),
    "no such file": ('[models.resnet18]\nweights = "missing.pth"', "missing.pth"),
    "no such package": ('[models.m]\nbuilder = "nowhere.at:all"', "nowhere"),
    "odd name": ('[models."a/b"]', "a/b"),
}


@pytest.mark.parametrize(("text", "told"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_configuration_at_fault(tmp_path: Path, text: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "server.toml"
    path.write_text(text)
    assert starting("--config", str(path)) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err


def test_flags_at_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, told in (
        (["--device", "tpu"], "pool.device"),
        (["--port", "70000"], "server.port"),
        (["--model", "didgits"], "digits"),
        (["--config", str(tmp_path / "missing.toml")], "missing.toml"),
        (["--log-level", "loud"], "LOUD"),
    ):
        assert starting(*flags) == 2, flags
        assert told in capsys.readouterr().err


def test_tls_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nonsense.pem"
    path.write_text("nonsense")
    assert starting("--tls-key", str(path), "--tls-certificate", str(path)) == 2
    assert "nonsense.pem" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"nonsense")
    (tmp_path / "server.toml").write_text('[models.mine]\nbuilder = "alexnet"\nweights = "weights.safetensors"\n')
    assert starting("--config", str(tmp_path / "server.toml")) == 1
    err = capfd.readouterr().err
    assert "weights.safetensors is cut off or damaged" in err
    assert "Traceback" not in err
    assert "restarting" not in err
