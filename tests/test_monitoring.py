"""server/deploy/monitoring: every expression of dashboard and alerts, asked of a Prometheus that reads a server."""

import hashlib
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

import grpc
import pytest
import yaml
from serving import PATIENCE, Server, Stubs, picture

from gradserve.v1 import predict_pb2

FOLDER = Path(__file__).resolve().parents[1] / "server" / "deploy" / "monitoring"
RULES = FOLDER / "alerts.yaml"
PANELS = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
EXPRESSIONS = {
    f"{panel['title']}, {target['refId']}": target["expr"].replace("$__rate_interval", "1m")
    for panel in PANELS
    for target in panel["targets"]
}
SELECTOR = re.compile(r"\b(?:gradserve|grpc_server)_\w+(?:\{[^}]*\})?")
PREDICT = predict_pb2.PredictRequest(image=picture(0, 8, 12))
BRIEF = predict_pb2.PredictRequest(image=PREDICT.image, options={"time_budget": {"seconds": 5}})
TOKEN = (("authorization", "Bearer sesame"),)
READY_SECONDS = 60  # In which all series have the two values that rates need.

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")), reason="needs Prometheus and promtool"
)


class Prometheus:
    """A Prometheus that reads a server every second, and evaluates our rules."""

    def __init__(self, folder: Path, target: str) -> None:
        scrape = {"job_name": "gradserve", "static_configs": [{"targets": [target]}]}
        intervals = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        settings = {"global": intervals, "scrape_configs": [scrape], "rule_files": [str(RULES)]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen([*command, f"--web.listen-address={self.address}"], stderr=log, stdout=log)

    def ask(self, path: str, **query: str) -> Any:
        with urlopen(f"http://{self.address}/api/v1/{path}?{urlencode(query)}", timeout=30) as reply:
            answer = json.load(reply)
        assert answer["status"] == "success", answer
        return answer["data"]

    def series(self, expression: str) -> list[Any]:
        """What an expression gives now."""
        return list(self.ask("query", query=expression)["result"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One in which everything has happened once that adds a series: an answer, a refusal and an error."""
    folder = tmp_path_factory.mktemp("monitored")
    file = folder / "held"
    digest = hashlib.sha256(b"sesame").hexdigest()
    (folder / "tokens.toml").write_text(f'[caller]\nsha256 = "{digest}"\n')
    config = f"""
    [server]
    token_file = "{folder}/tokens.toml"
    [limits]
    max_in_flight = 1
    [models.held]
    builder = "networks:held"
    arguments = {{file = "{file}"}}
    weights = "random"
    precisions = ["exact"]
    height = 8
    width = 12
    resize = 8
    """
    with Server(config, "--workers", "1") as server, server.channel() as channel, ThreadPoolExecutor(1) as pool:
        call = Stubs.of(channel).gradients.Predict
        assert call(PREDICT, metadata=TOKEN, timeout=PATIENCE).top
        file.touch()
        held = pool.submit(call, BRIEF, metadata=TOKEN, timeout=PATIENCE)
        while not server.metric("gradserve_jobs_in_flight"):
            assert not held.done()
        for code in ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"):
            with pytest.raises(grpc.RpcError) as caught:
                _ = call(PREDICT, metadata=TOKEN, timeout=PATIENCE) if code == "RESOURCE_EXHAUSTED" else held.result()
            assert caught.value.code().name == code
        file.unlink()
        yield server


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that has read the server often enough for rates."""
    prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), urlsplit(server.said("metrics")).netloc)
    end = time.monotonic() + READY_SECONDS
    try:
        while time.monotonic() < end:
            try:
                if len(prometheus.series("rate(gradserve_build_info[1m])")) == 1:
                    break
            except URLError:
                assert prometheus.process.poll() is None, "it has ended"
            time.sleep(0.2)
        yield prometheus
    finally:
        prometheus.process.terminate()
        prometheus.process.wait(30)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_panel_shows_something(prometheus: Prometheus, name: str) -> None:
    assert prometheus.series(EXPRESSIONS[name]), EXPRESSIONS[name]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_looks_at_series_that_there_are(prometheus: Prometheus, alert: Any) -> None:
    prometheus.series(alert["expr"])  # It may give nothing, and must be no error.
    selectors = SELECTOR.findall(alert["expr"])
    assert selectors
    for selector in selectors:
        assert prometheus.series(selector), selector


def test_a_calm_server_alerts_nobody_but_for_its_errors(prometheus: Prometheus) -> None:
    """Prometheus evaluates every rule without a fault; what failed and was refused here is far above the bounds."""
    (group,) = prometheus.ask("rules")["groups"]
    assert {rule["name"]: rule["health"] for rule in group["rules"]} == {each["alert"]: "ok" for each in ALERTS}
    pending = {rule["name"] for rule in group["rules"] if rule["state"] != "inactive"}
    assert pending <= {"GradserveErrors", "GradserveRefusals"}


def test_promtool_accepts_the_rules() -> None:
    done = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_have_names_and_places_of_their_own() -> None:
    assert len({panel["title"] for panel in PANELS}) == len({panel["id"] for panel in PANELS}) == len(PANELS)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS}
    assert len(places) == len(PANELS)
