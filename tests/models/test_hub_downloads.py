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
from gradserve_server.models.hubs.download import INDEX, SINGLE, fetched
from gradserve_server.models.hubs.preset import HubFault

SHA = "0123456789" * 4
LISTED = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
ESCAPING = json.dumps({"weight_map": {"a": "../one.safetensors"}}).encode()
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
PARTS = dict.fromkeys(("one.safetensors", "two.safetensors"), b"weights")
ASIDE = dict.fromkeys(("model.fp16.safetensors", "adapter.safetensors", "pytorch_model.bin", "code.py"), b"weights")
REPOSITORIES: dict[str, dict[str, bytes]] = {
    "owner/good": {CONFIG: b"{}", SINGLE: b"weights", **ASIDE},
    "owner/both": {CONFIG: b"{}", SINGLE: b"weights", INDEX: LISTED, **PARTS},
    "owner/parts": {CONFIG: b"{}", PROCESSOR: b"{}", INDEX: LISTED, **PARTS, **ASIDE},
    "owner/escaping": {CONFIG: b"{}", INDEX: ESCAPING},
    "owner/damaged": {CONFIG: b"{}", INDEX: LISTED[:20]},
    "owner/pickled": {CONFIG: b"{}", "pytorch_model.bin": b"weights"},
    "owner/elsewhere": {CONFIG: b"{}", "model.fp16.safetensors": b"weights"},
    "owner/empty": {CONFIG: b"{}"},
    "owner/gated": {CONFIG: b"{}", SINGLE: b"weights"},
}
NEEDED = [(CONFIG,), (SINGLE, INDEX)]


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
        if name == "owner/gated":
            return self._send(b"{}", 403, {"X-Error-Code": "GatedRepo"})
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
    folder = fetched("owner/good", revision, NEEDED)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    point_to("http://127.0.0.1:9", monkeypatch)
    assert fetched("owner/good", revision, NEEDED) == folder


FILES = {
    "owner/good": [CONFIG, SINGLE],
    "owner/both": [CONFIG, SINGLE],
    "owner/parts": [CONFIG, INDEX, "one.safetensors", PROCESSOR, "two.safetensors"],
}


@pytest.mark.parametrize("repository", FILES)
def test_no_more_files_are_fetched_than_are_needed(hub: ThreadingHTTPServer, repository: str) -> None:
    folder = fetched(repository, SHA, NEEDED, [PROCESSOR])
    assert {path.name for path in folder.iterdir()} == set(FILES[repository])


def test_what_the_cache_lacks_is_asked_for(
    hub: ThreadingHTTPServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetched("owner/parts", SHA, NEEDED)
    assert not (folder / PROCESSOR).exists()
    assert fetched("owner/parts", SHA, NEEDED, [PROCESSOR]) == folder
    assert (folder / PROCESSOR).exists()
    (folder / PROCESSOR).unlink()
    point_to("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(HubFault, match=f"^{PROCESSOR} of owner/parts is not in the cache, and the hub cannot be re"):
        fetched("owner/parts", SHA, NEEDED, [PROCESSOR])


WRONG = {
    ("owner/goood", SHA): "the hub has no owner/goood, or it is private; nearest: owner/good",
    ("owner/good", "v2"): "owner/good has no revision v2; give the commit that its page shows",
    (
        "owner/pickled",
        SHA,
    ): "owner/pickled has its weights as pytorch_model.bin alone; only safetensors files are loaded",
    ("owner/elsewhere", SHA): "owner/elsewhere has its weights as model.fp16.safetensors alone; only safetensors files",
    ("owner/empty", SHA): "owner/empty has no weights",
    ("owner/gated", SHA): "owner/gated is gated: the hub gives it to whom its authors let in; ask for access on its",
    ("owner/escaping", SHA): f"{INDEX} in ",
    ("owner/damaged", SHA): f"{INDEX} in ",
}


@pytest.mark.parametrize("asked", WRONG)
def test_what_is_not_there(hub: ThreadingHTTPServer, asked: tuple[str, str]) -> None:
    with pytest.raises(HubFault) as caught:
        fetched(*asked, NEEDED)
    assert str(caught.value).startswith(WRONG[asked])


def test_a_part_of_the_weights_in_the_cache_is_not_enough(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cache / "models--owner--cut" / "snapshots" / SHA
    folder.mkdir(parents=True)
    (folder / INDEX).write_bytes(LISTED)
    for name in ("config.json", "one.safetensors"):
        (folder / name).write_bytes(b"{}")
    point_to("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(
        HubFault, match=r"^two\.safetensors of owner/cut is not in the cache, and the hub cannot be reached"
    ):
        fetched("owner/cut", SHA, NEEDED)
    (folder / "two.safetensors").write_bytes(b"{}")
    assert fetched("owner/cut", SHA, NEEDED) == folder


def test_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download.MAX_SECONDS + 2 <= 10
    point_to("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(
        HubFault, match=r"the hub cannot be reached .*; download it where there is a network, `hf download"
    ):
        fetched("owner/good", SHA, NEEDED)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubFault, match="the hub cannot be reached"):
        fetched("owner/good", SHA, NEEDED)


def test_a_hub_that_does_not_answer(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does it hold up the one that asks, whatever the library does about it."""
    monkeypatch.setattr(download, "MAX_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_to(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        with pytest.raises(HubFault, match=r"cannot be reached \(no answer within 0.5 s\); download it where there is"):
            fetched("owner/good", SHA, NEEDED)
