"""server/deploy: valid Kubernetes objects that fit each other and the server."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gradserve_server.config import ServerSettings, read_settings

FOLDER = Path(__file__).resolve().parents[1] / "server" / "deploy"
VERSIONS = ("1.31", "1.37")  # of Kubernetes, the oldest and the newest that are tried


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


KUSTOMIZATION, DEPLOYMENT, SERVICE = read("kustomization.yaml"), read("deployment.yaml"), read("service.yaml")
POD = DEPLOYMENT["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", KUSTOMIZATION["resources"])
def test_objects_are_valid(name: str, version: str) -> None:
    kubernetes_validate.validate(read(name), version, strict=True)


def test_all_files_are_used() -> None:
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    named = {"kustomization.yaml", *KUSTOMIZATION["resources"], *generated["files"]}
    assert named == {path.name for path in FOLDER.iterdir() if path.is_file()}


def test_selectors_find_the_pods() -> None:
    labels = POD["metadata"]["labels"].items()
    budget = read("disruption-budget.yaml")
    for selector in (DEPLOYMENT["spec"]["selector"]["matchLabels"], SERVICE["spec"]["selector"]):
        assert selector.items() <= labels
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels


def test_ports_are_those_of_the_server() -> None:
    settings = read_settings(FOLDER / "gradserve.toml").server
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    assert ports == {"grpc": settings.port, "metrics": settings.metrics_port}
    assert {CONTAINER[f"{each}Probe"]["grpc"]["port"] for each in ("startup", "readiness")} == {ports["grpc"]}
    assert CONTAINER["livenessProbe"]["httpGet"]["port"] in ports
    assert SERVICE["spec"]["ports"][0]["targetPort"] in ports
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
    assert settings.host == "0.0.0.0"


def test_there_is_time_to_drain() -> None:
    settings: ServerSettings = read_settings(FOLDER / "gradserve.toml").server
    pause = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["spec"]["terminationGracePeriodSeconds"] >= pause + settings.drain_seconds + 10


def test_volumes_are_mounted() -> None:
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    volumes = {each["name"]: each for each in POD["spec"]["volumes"]}
    mounts = {each["name"]: each["mountPath"] for each in CONTAINER["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    assert volumes["configuration"]["configMap"]["name"] == generated["name"]
    assert CONTAINER["args"] == ["--config", f"{mounts['configuration']}/{generated['files'][0]}"]
