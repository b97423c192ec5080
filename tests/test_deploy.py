"""server/deploy and the Dockerfile: valid Kubernetes objects and an image that fit each other and the server."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from serving import Server

from gradserve_server.config import ServerSettings, read_settings

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "server" / "deploy"
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())  # Each instruction on one line.
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
    assert settings.host == settings.metrics_host == "0.0.0.0"


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


def instruction(name: str) -> str:
    """What the last instruction of that name in the Dockerfile says."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)[-1]


def test_the_image_has_the_user_of_the_pod() -> None:
    user, group = instruction("USER").split(":")
    security = POD["spec"]["securityContext"]
    assert (int(user), int(group)) == (security["runAsUser"], security["fsGroup"])
    assert f"--uid {user} " in instruction("RUN")
    assert f"--gid {group} " in instruction("RUN")


def test_the_image_can_have_a_root_that_is_only_read() -> None:
    """The pod mounts what the Dockerfile says must be written to."""
    paths = set(re.findall(r"--tmpfs ([\w./]+)", DOCKERFILE))
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert paths == {each["mountPath"] for each in CONTAINER["volumeMounts"] if not each.get("readOnly")}


def test_bases_are_pinned() -> None:
    assert re.search(r"^ARG BASE=python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
    assert [line.split()[0] for line in re.findall(r"^FROM (.*)$", DOCKERFILE, re.MULTILINE)] == ["${BASE}"] * 2


def test_the_images_ports_are_open_to_others() -> None:
    _, command, *flags = json.loads(instruction("ENTRYPOINT"))
    assert command == "serve"
    assert dict(zip(flags[::2], flags[1::2], strict=True)) == {"--host": "0.0.0.0", "--metrics-host": "0.0.0.0"}
    defaults = ServerSettings()
    assert instruction("EXPOSE") == f"{defaults.port} {defaults.metrics_port}"


def test_the_images_health_check_asks_a_server() -> None:
    """Whether it serves; the server is told to listen for metrics on a free port."""
    with Server("[models.digits]", "--workers", "1", "--metrics-host", "0.0.0.0") as server:
        url = server.said("metrics").replace("0.0.0.0", "127.0.0.1").replace("/metrics", "/healthz")
        python, *rest = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
        assert python == "python"
        here = [word.replace(f"http://127.0.0.1:{ServerSettings().metrics_port}/healthz", url) for word in rest]
        assert here != rest

        def check() -> int:
            return subprocess.run([sys.executable, *here], capture_output=True, timeout=60).returncode

        assert server.address
        assert check() == 0
        server.kill()
        assert check() != 0
