"""Traces: what a collector is sent of the requests to real servers, and that nothing is loaded where they are off."""

import json
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
import pytest
from collector import Collector, Node
from picture_indexes import models_with_pictures
from serving import PATIENCE, Server, Stubs, methods, picture

from gradserve.v1 import (
    attack_pb2,
    certify_pb2,
    concepts_pb2,
    dense_pb2,
    differentiate_pb2,
    exemplars_pb2,
    explain_pb2,
    influence_pb2,
    inspect_pb2,
    maximize_pb2,
    models_pb2,
    predict_pb2,
    project_pb2,
    service_pb2,
    stylize_pb2,
)
from gradserve_server import __version__
from gradserve_server.api.telemetry.request_log import RequestLog
from gradserve_server.api.telemetry.spans import open_span
from gradserve_server.api.telemetry.tracing import Tracing, resource_attributes

CALLERS = "0af7651916cd43dd8448eb211c80319c"  # A trace id of a caller.
DIGIT, PHOTO = picture(0, 8, 8), picture(1, 64, 64)
DIGITS = [picture(i, 8, 8) for i in range(6)]
SMALL_SECONDS = 0.02  # What is missing in the parts of a shorter request is compared with a tenth of this.
RUN = ("run", "pass")
SIMPLE = ("decode", "queue", RUN, "encode")
SHAPES: dict[str, tuple[Any, ...]] = dict.fromkeys(
    (
        "Predict",
        "Explain",
        "StreamExplain",
        "Differentiate",
        "Influence",
        "Embed",
        "Certify",
        "Inspect",
        "Concepts",
        "Project",
        "Dense",
    ),
    SIMPLE,
)
SHAPES |= {
    "Maximize": SIMPLE,
    "StreamMaximize": SIMPLE,
    "Stylize": SIMPLE,
    "StreamStylize": SIMPLE,
    "Suspects": ("encode",),
    "Exemplars": ("encode",),
    "ListModels": (),
    "GetModel": (),
}
SHAPES["Attack"] = (
    "decode",
    ("attack", "queue", RUN),
    ("certificate", "encode", "queue", RUN),
    ("map", "queue", RUN),
    "encode",
)
GRADIENTS, ABOUT_MODELS = "gradserve.v1.GradientService", "gradserve.v1.ModelService"
SERVICE = service_pb2.DESCRIPTOR.services_by_name["GradientService"]


def calls(stubs: Stubs) -> dict[str, Callable[[], object]]:
    """Every RPC with a small request."""
    digits, g = {"model": "digits", "image": DIGIT}, stubs.gradients
    goal = maximize_pb2.Goal(summands=[{"target": {"class_index": 0}}])
    maximize = maximize_pb2.MaximizeRequest(model="digits", goals=[goal], settings={"steps": 40})
    stylize = stylize_pb2.StylizeRequest(model="small", content=DIGIT, styles=[{"image": DIGIT}], settings={"steps": 2})
    explain = explain_pb2.ExplainRequest(**digits, methods=methods(gradient={}))
    return {
        "Predict": lambda: g.Predict(predict_pb2.PredictRequest(**digits)),
        "Explain": lambda: g.Explain(explain),
        "StreamExplain": lambda: list(g.StreamExplain(explain)),
        "Attack": lambda: g.Attack(attack_pb2.AttackRequest(**digits, method={"pgd": {}}, maps={"gradient": {}})),
        "Differentiate": lambda: g.Differentiate(
            differentiate_pb2.DifferentiateRequest(model="digits", images=[DIGIT, DIGIT])
        ),
        "Maximize": lambda: g.Maximize(maximize),
        "StreamMaximize": lambda: list(g.StreamMaximize(maximize)),
        "Stylize": lambda: g.Stylize(stylize),
        "StreamStylize": lambda: list(g.StreamStylize(stylize)),
        "Influence": lambda: g.Influence(influence_pb2.InfluenceRequest(**digits)),
        "Suspects": lambda: g.Suspects(influence_pb2.SuspectsRequest(model="digits")),
        "Exemplars": lambda: g.Exemplars(exemplars_pb2.ExemplarsRequest(model="digits")),
        "Embed": lambda: g.Embed(influence_pb2.EmbedRequest(**digits)),
        "Certify": lambda: g.Certify(certify_pb2.CertifyRequest(**digits)),
        "Inspect": lambda: g.Inspect(inspect_pb2.InspectRequest(model="digits", table={"images": [DIGIT, DIGIT]})),
        "Concepts": lambda: g.Concepts(
            concepts_pb2.ConceptsRequest(model="digits", concept_images=DIGITS[:3], negative_images=DIGITS[3:])
        ),
        "Project": lambda: g.Project(project_pb2.ProjectRequest(model="digits", images=[DIGIT, DIGIT])),
        "Dense": lambda: g.Dense(dense_pb2.DenseRequest(model="small", image=PHOTO)),
        "ListModels": lambda: stubs.models.ListModels(models_pb2.ListModelsRequest()),
        "GetModel": lambda: stubs.models.GetModel(models_pb2.GetModelRequest(name="small")),
    }


def smooth_grad(stubs: Stubs) -> object:
    """A request of more than SMALL_SECONDS, whose rows share passes with others."""
    asked = methods(smooth_grad={"samples": 24})
    return stubs.gradients.Explain(explain_pb2.ExplainRequest(model="small", image=PHOTO, methods=asked))


def refuse(stubs: Stubs) -> None:
    """A request whose picture cannot be read."""
    with pytest.raises(grpc.RpcError) as caught:
        stubs.gradients.Predict(predict_pb2.PredictRequest(image={"encoded": b"no picture"}))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def cancel(stubs: Stubs) -> None:
    """A request whose caller goes away while it runs."""
    goal = maximize_pb2.Goal(summands=[{"target": {"class_index": 0}}])
    asked = maximize_pb2.MaximizeRequest(model="small", goals=[goal], settings={"steps": 2048})
    stream = stubs.gradients.StreamMaximize(asked)
    next(stream)
    stream.cancel()


def mixed(stubs: Stubs) -> list[Callable[[], object]]:
    """Many requests: every RPC three times, longer ones, one that is refused and one that is cancelled."""
    longer = [lambda: smooth_grad(stubs)] * 6
    return [lambda: refuse(stubs), lambda: cancel(stubs), *(3 * [*calls(stubs).values(), *longer[:2]])]


def log_lines(server: Server) -> list[dict[str, Any]]:
    """What its access log says of each request."""
    return [json.loads(found) for found in re.findall(r"gradserve\.requests (\{.*)", server.log())]


@pytest.fixture(scope="module")
def traced() -> Iterator[tuple[list[Node], list[dict[str, Any]], dict[str, str]]]:
    """The trees of `mixed` and of some requests with a caller's trace; the log's lines; those callers' trace ids."""
    ids = {name: secrets.token_hex(16) for name in ("sampled", "unsampled")}
    flags = {"sampled": "01", "unsampled": "00"}
    with (
        Collector() as collector,
        Server(models_with_pictures(), "--workers", "1", "--traces", collector.address) as server,
    ):
        with server.channel() as channel:
            stubs = Stubs.of(channel)
            for name, trace in ids.items():
                header = ("traceparent", f"00-{trace}-b7ad6b7169203331-{flags[name]}"), ("tracestate", "vendor=7")
                stubs.gradients.Predict(predict_pb2.PredictRequest(model="digits", image=DIGIT), metadata=header)
            with ThreadPoolExecutor(8) as threads:
                for future in [threads.submit(call) for call in mixed(stubs)]:
                    future.result(PATIENCE)
        assert server.stop() == 0, "what is left is sent at the end"
        yield collector.trees(), log_lines(server), ids


@pytest.fixture(autouse=True)
def _no_open_span() -> None:
    open_span.set(None)


@pytest.fixture
def trees(traced: tuple[list[Node], Any, dict[str, str]]) -> list[Node]:
    """Those of the requests of `mixed`."""
    return [tree for tree in traced[0] if tree.trace not in traced[2].values()]


def rpc(tree: Node) -> str:
    return tree.name.rpartition("/")[2]


def code(tree: Node) -> str:
    return str(tree.facts["rpc.response.status_code"])


def test_every_request_is_one_tree(trees: list[Node]) -> None:
    answered = 3 * (len(SHAPES) + 2)
    assert len(trees) == len({tree.trace for tree in trees}) == answered + 2
    assert Counter(map(code, trees)) == {"OK": answered, "INVALID_ARGUMENT": 1, "CANCELLED": 1}
    rpcs = {each.name for each in SERVICE.methods}
    assert {rpc(tree) for tree in trees} == rpcs | {"ListModels", "GetModel"} == SHAPES.keys()
    for tree in trees:
        service = ABOUT_MODELS if rpc(tree) in ("ListModels", "GetModel") else GRADIENTS
        assert tree.name == tree.facts["rpc.method"] == f"{service}/{rpc(tree)}"
        assert tree.facts["rpc.system.name"] == "grpc"
        assert tree.span.kind == tree.span.SPAN_KIND_SERVER
        assert all(node.span.kind == node.span.SPAN_KIND_INTERNAL for node in tree.all() if node is not tree)
        assert tree.resource["service.name"] == "gradserve"


def test_the_parts_of_each_rpc(trees: list[Node]) -> None:
    trials = [child.shape for tree in trees if rpc(tree) == "Dense" for child in tree.children if child.name == "trial"]
    assert set(trials) == {("trial", "queue", "run")}, "the first requests of Dense have its head tried"
    for tree in trees:
        own = tuple(dict.fromkeys(child.shape for child in tree.children if child.name != "trial"))
        if code(tree) == "OK":
            assert own == SHAPES[rpc(tree)], rpc(tree)
    (refused,) = [tree for tree in trees if code(tree) == "INVALID_ARGUMENT"]
    (cancelled,) = [tree for tree in trees if code(tree) == "CANCELLED"]
    assert [child.name for child in refused.children] == ["decode"]
    assert [child.name for child in cancelled.children] == ["decode", "task"]


def test_parts_add_up_to_the_latency(trees: list[Node]) -> None:
    """Within a tenth. Of requests under SMALL_SECONDS no more may be missing than of one that takes so long."""
    nodes = [node for tree in trees for node in tree.all() if node.children and node.name != "run"]
    assert sum(node.seconds >= SMALL_SECONDS for node in nodes) >= 10
    for node in nodes:
        missing = node.seconds - sum(child.seconds for child in node.children)
        assert abs(missing) <= max(node.seconds, SMALL_SECONDS) / 10, (node.shape, node.seconds, missing)
        ends = [node.span.start_time_unix_nano, *(child.span.end_time_unix_nano for child in node.children)]
        assert [child.span.start_time_unix_nano for child in node.children] == ends[:-1], "without gaps"


def test_passes_tell_their_rows_and_company(trees: list[Node]) -> None:
    runs = [node for tree in trees for node in tree.all() if node.name == "run"]
    passes = [each.facts for run in runs for each in run.children]
    assert {(facts["gradserve.model"], facts["gradserve.precision"]) for facts in passes} >= {
        ("digits", "exact"),
        ("small", "exact"),
    }
    assert all(facts["gradserve.rows"] >= 1 for facts in passes)
    assert any(facts["gradserve.other_rows"] for facts in passes), "some requests had company"
    trials = [node.all() for tree in trees for node in tree.all() if node.name == "trial"]
    reading = [node.span.span_id for nodes in trials for node in nodes if node.name == "run"]
    looking = [node.span.span_id for tree in trees if rpc(tree) == "Dense" for node in tree.all() if node.name == "run"]
    for run in runs:
        assert len(run.children) == min(32, run.facts["gradserve.passes"])
        assert bool(run.children) == (run.span.span_id not in reading), "trials read models, and have no passes"
        if not run.children:
            continue
        begins, ends = zip(
            *((node.span.start_time_unix_nano, node.span.end_time_unix_nano) for node in run.children), strict=True
        )
        if run.span.span_id in looking:  # Their methods look into the model before their first pass.
            assert run.span.start_time_unix_nano < begins[0]
        else:
            assert run.span.start_time_unix_nano == begins[0]
        assert max(ends) <= run.span.end_time_unix_nano
    assert any(run.facts["gradserve.passes"] > 32 for run in runs), "some are only counted"
    for tree in trees:
        done = [node for node in tree.all() if node.name == "run"]
        if all(run.facts["gradserve.passes"] <= 32 for run in done) and code(tree) == "OK":
            rows = sum(each.facts["gradserve.rows"] for run in done for each in run.children)
            assert rows == tree.facts["gradserve.rows"], rpc(tree)


def test_the_log_names_each_trace(traced: tuple[list[Node], list[dict[str, Any]], dict[str, str]]) -> None:
    trees, lines, ids = traced
    assert {line["trace"] for line in lines} == {tree.trace for tree in trees} | {ids["unsampled"]}
    names = {line["trace"]: line["id"] for line in lines}
    assert all(names[tree.trace] == tree.facts["gradserve.request_id"] for tree in trees)


def test_a_callers_trace_goes_on(traced: tuple[list[Node], Any, dict[str, str]]) -> None:
    trees, _, ids = traced
    (tree,) = [tree for tree in trees if tree.trace == ids["sampled"]]
    assert (tree.span.parent_span_id.hex(), tree.span.trace_state) == ("b7ad6b7169203331", "vendor=7")
    assert [child.shape for child in tree.children] == list(SIMPLE)
    assert {node.trace for node in tree.all()} == {ids["sampled"]}


def test_what_a_caller_does_not_sample_is_not_sent(traced: tuple[list[Node], Any, dict[str, str]]) -> None:
    trees, _, ids = traced
    assert ids["unsampled"] not in {node.trace for tree in trees for node in tree.all()}


def test_the_variables_of_opentelemetry_are_read() -> None:
    with Collector() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "OTEL_SERVICE_NAME": "saliency"}
        environment["OTEL_TRACES_SAMPLER"] = "parentbased_always_off"
        with patch.dict(os.environ, environment), Server("[models.digits]", "--traces", "otlp") as server:
            with server.channel() as channel:
                predict, asked = Stubs.of(channel).gradients.Predict, predict_pb2.PredictRequest(image=DIGIT)
                predict(asked)
                predict(asked, metadata=[("traceparent", f"00-{'ab' * 16}-b7ad6b7169203331-01")])
            assert server.stop() == 0
            first, _ = log_lines(server)
        (tree,) = collector.trees()
        assert (tree.trace, tree.resource["service.name"]) == ("ab" * 16, "saliency")
        assert re.fullmatch("[0-9a-f]{32}", first["trace"]), "also of a request that is not sampled"


@pytest.mark.parametrize(
    ("environment", "name", "version"),
    [
        ({}, "gradserve", __version__),
        ({"OTEL_SERVICE_NAME": "saliency"}, "saliency", __version__),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.version=blue"}, "gradserve", "blue"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=a,service.version=b", "OTEL_SERVICE_NAME": "c"}, "c", "b"),
    ],
)
def test_what_the_environment_says_of_the_service_comes_first(
    environment: dict[str, str], name: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    found = resource_attributes().attributes
    assert (found["service.name"], found["service.version"]) == (name, version)


def test_a_collector_that_is_gone_costs_no_request_and_little_at_the_end() -> None:
    environment = {"OTEL_EXPORTER_OTLP_TIMEOUT": "100"}  # The exporter itself would go on for so many seconds.
    with patch.dict(os.environ, environment), Server("[models.digits]", "--traces", "http://127.0.0.1:9") as server:
        with server.channel() as channel:
            assert Stubs.of(channel).gradients.Predict(predict_pb2.PredictRequest(image=DIGIT), timeout=PATIENCE).top
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("parent", "state"),
    [
        ("", ""),
        ("00-" + "0" * 32 + "-" + "b" * 16 + "-01", "vendor=7"),
        ("ff-" + "a" * 32 + "-" + "b" * 16 + "-01", ""),
        ("00-" + "A" * 32 + "-" + "b" * 16, "=,=,@"),
        (f"00-{CALLERS}-{'b' * 16}-01", "=, ,@" + "x" * 1000),
        (f"00-{CALLERS}-{'b' * 16}-01", "a=1,a=2"),
        ("x" * 1000, ""),
    ],
)
def test_malformed_headers_are_no_harm(parent: str, state: str, caplog: pytest.LogCaptureFixture) -> None:
    with Collector() as collector:
        tracing, entry = Tracing(collector.address), RequestLog("a")
        trace = tracing.begin("/service/Rpc", {"traceparent": parent, "tracestate": state}, entry)
        assert trace is not None
        trace.end(grpc.StatusCode.OK)
        tracing.close()
        (tree,) = collector.trees()
    assert tree.trace == entry.trace
    assert (tree.trace == CALLERS) == (CALLERS in parent)
    assert not caplog.records, "callers cannot fill the log"


def test_a_fault_of_tracing_is_logged_once_and_harms_no_request(caplog: pytest.LogCaptureFixture) -> None:
    with Collector() as collector:
        tracing = Tracing(collector.address)
        trace = tracing.begin("/service/Rpc", {}, RequestLog("a"))
        tracing.start_span = fails
        assert trace is not None
        assert [tracing.begin("/service/Rpc", {}, RequestLog("b")) for _ in range(3)] == [None] * 3
        trace._noted.parts.append(None)  # type: ignore[arg-type]
        trace.end(grpc.StatusCode.OK)
        tracing.close()
    assert [record.message for record in caplog.records] == ["requests cannot be traced; this is logged once"]


def fails(*_: object, **__: object) -> Any:
    raise RuntimeError("a sampler of the environment")


@pytest.mark.parametrize("code", grpc.StatusCode, ids=lambda code: code.name)
def test_only_what_is_the_servers_fault_is_an_error(code: grpc.StatusCode) -> None:
    with Collector() as collector:
        tracing = Tracing(collector.address)
        trace = tracing.begin("/service/Rpc", {}, RequestLog("a"))
        assert trace is not None
        trace.end(code)
        tracing.close()
        (tree,) = collector.trees()
    faults = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
    assert (tree.span.status.code == tree.span.status.STATUS_CODE_ERROR) == (code.name in faults)
    assert tree.facts.get("error.type") == (code.name if code.name in faults else None)


def test_a_request_that_is_not_sampled_asks_for_nothing() -> None:
    with Collector() as collector:
        tracing = Tracing(collector.address)
        trace = tracing.begin("/service/Rpc", {"traceparent": f"00-{CALLERS}-{'b' * 16}-00"}, RequestLog("a"))
        assert trace is not None
        assert open_span.get() is None, "so that TaskSpans asks for no timeline"
        trace.end(grpc.StatusCode.OK)
        tracing.close()
        assert collector.trees() == []


@pytest.fixture
def without_opentelemetry(tmp_path: Path) -> Iterator[Path]:
    """Servers find a package in OpenTelemetry's place that cannot be imported, and leaves a file where one tries to."""
    package = tmp_path / "opentelemetry"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('tried').touch()\nraise ImportError('no such package')\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with patch.dict(os.environ, {"PYTHONPATH": path}):
        yield package / "tried"


def test_no_process_imports_opentelemetry_unless_it_is_asked_to(without_opentelemetry: Path) -> None:
    with Server("[pool]\nworkers = 1\n[models.digits]", fresh=True) as server:
        with server.channel() as channel:
            assert Stubs.of(channel).gradients.Predict(predict_pb2.PredictRequest(image=DIGIT), timeout=PATIENCE).top
        assert server.stop() == 0
    assert not without_opentelemetry.exists()


def test_without_the_extra_the_server_says_what_to_install(without_opentelemetry: Path) -> None:
    with Server("[models.digits]", "--traces", "http://127.0.0.1:4317", fresh=True) as server:
        assert server.process.wait(PATIENCE) == 1
        assert "pip install 'gradserve[otel]'" in server.log()
        assert "Traceback" not in server.log()
    assert without_opentelemetry.exists(), "the test above sees where it is imported"


@pytest.mark.parametrize("endpoint", ["collector:4317", "ftp://collector", "", "http://", "http://host/path"])
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    with Server("[models.digits]", "--traces", endpoint) as server:
        assert server.process.wait(PATIENCE) == 2
        assert "traces must be http://HOST:PORT, https://HOST:PORT or otlp" in server.log()


def test_a_variable_that_opentelemetry_refuses() -> None:
    with (
        patch.dict(os.environ, {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}),
        Server("[models.digits]", "--traces", "otlp") as server,
    ):
        assert server.process.wait(PATIENCE) == 1
        assert "soon" in server.log()
        assert "Traceback" not in server.log()
