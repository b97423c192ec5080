"""Files of a hub: a small one on this machine that answers as the real one does, and one that does not answer."""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from gradserve_server.models.hubs import download
from gradserve_server.models.hubs.download import fetched
from gradserve_server.models.hubs.preset import HubFault

SHA = "0123456789" * 4
INDEX = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
REPOSITORIES = {
    "owner/good": {"config.json": b"{}", "model.safetensors": b"weights", "code.py": b"import os"},
    "owner/pickled": {"config.json": b"{}", "pytorch_model.bin": b"weights"},
    "owner/empty": {"config.json": b"{}"},
}
PATTERNS, NEEDED = ["config.json", "*.safetensors"], ["config.json", "*.safetensors"]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as downloading takes."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if self.path.startswith("/api/models?"):
            return self._send(json.dumps([{"id": name} for name in REPOSITORIES]).encode())
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in REPOSITORIES:
            return self._send(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        if parts[0] == "api" and "revision" in parts and parts[-1] not in (SHA, "v1"):
            return self._send(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        if parts[0] == "api":
            files = [{"rfilename": file} for file in REPOSITORIES[name]]
            tree = [{"type": "file", "path": f, "size": len(d), "oid": "0"} for f, d in REPOSITORIES[name].items()]
            answer: object = tree if "tree" in parts else {"id": name, "sha": SHA, "siblings": files}
            return self._send(json.dumps(answer).encode())
        data = REPOSITORIES[name][parts[-1]]
        return self._send(data, 200, {"X-Repo-Commit": SHA, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def _send(self, data: bytes, code: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return tmp_path


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    point_to(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("revision", [SHA, "v1"])
def test_what_is_in_the_cache_needs_no_hub(
    hub: ThreadingHTTPServer, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetched("owner/good", revision, PATTERNS, NEEDED)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    point_to("http://127.0.0.1:9", monkeypatch)
    assert fetched("owner/good", revision, PATTERNS, NEEDED) == folder


WRONG = {
    ("owner/goood", SHA): "the hub has no owner/goood, or it is private; nearest: owner/good",
    ("owner/good", "v2"): "owner/good has no revision v2; give the commit that its page shows",
    (
        "owner/pickled",
        SHA,
    ): "owner/pickled has its weights as pytorch_model.bin alone; only safetensors files are loaded",
    ("owner/empty", SHA): "owner/empty has no weights",
}


@pytest.mark.parametrize("asked", WRONG)
def test_what_is_not_there(hub: ThreadingHTTPServer, asked: tuple[str, str]) -> None:
    with pytest.raises(HubFault) as caught:
        fetched(*asked, PATTERNS, NEEDED)
    assert str(caught.value).startswith(WRONG[asked])


def test_a_part_of_the_weights_in_the_cache_is_not_enough(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cache / "models--owner--cut" / "snapshots" / SHA
    folder.mkdir(parents=True)
    (folder / "model.safetensors.index.json").write_bytes(INDEX)
    for name in ("config.json", "one.safetensors"):
        (folder / name).write_bytes(b"{}")
    point_to("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(HubFault, match="owner/cut is not in the cache, and the hub cannot be reached"):
        fetched("owner/cut", SHA, PATTERNS, NEEDED)
    (folder / "two.safetensors").write_bytes(b"{}")
    assert fetched("owner/cut", SHA, PATTERNS, NEEDED) == folder


def test_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download.MAX_SECONDS + 2 <= 10
    point_to("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(
        HubFault, match=r"the hub cannot be reached .*; download it where there is a network, `hf download"
    ):
        fetched("owner/good", SHA, PATTERNS, NEEDED)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubFault, match="the hub cannot be reached"):
        fetched("owner/good", SHA, PATTERNS, NEEDED)


def test_a_hub_that_does_not_answer(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does it hold up the one that asks, whatever the library does about it."""
    monkeypatch.setattr(download, "MAX_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_to(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        with pytest.raises(HubFault, match=r"cannot be reached \(no answer within 0.5 s\); download it where there is"):
            fetched("owner/good", SHA, PATTERNS, NEEDED)
