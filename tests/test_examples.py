"""examples/: the programs run against a server. The notebooks are tests themselves, which nbmake collects."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from client.fake import BAD_FIELDS, FakeServer
from notebooks import NOTEBOOKS
from PIL import Image
from serving import Server
from zoo import off, pictures, prepared

import gradserve
from gradserve.cli.demo.samples import photos

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NODE, PYTHON = EXAMPLES / "node", EXAMPLES / "python"
MAX_NOTEBOOK_BYTES = 400_000
NO_NETWORK = ("EAI_AGAIN", "ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_short_and_show_what_they_show(path: Path) -> None:
    assert path.stat().st_size < MAX_NOTEBOOK_BYTES
    notebook = nbformat.read(path, as_version=4)
    assert 8 <= len(notebook.cells) <= 14
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/jpeg" in output.get("data", {})]
    assert len(pictures) >= 3, "its pictures are missing: make notebooks"
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not [cell for cell in notebook.cells if cell.metadata.get("execution")], "it has times: make notebooks"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("[models.imagenet]", "--workers", "1") as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two photos."""
    for photo in photos("cat", "coffee"):
        photo.open().save(tmp_path / f"{photo.name}.jpg")
    return tmp_path


def run(*words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=200)


# Python


def test_the_sheet_has_a_row_for_each_photo(server: Server, folder: Path) -> None:
    words = [folder / "cat.jpg", folder / "coffee.jpg", "--out", folder / "sheet.png", "--server", server.address]
    done = run(sys.executable, PYTHON / "explain_sheet.py", *words)
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 7 * 200
        assert 2 * 200 < sheet.height < 3 * 200


def test_a_batch_job_survives_a_broken_photo_and_goes_on(server: Server, folder: Path) -> None:
    (folder / "broken.jpg").write_bytes(b"no picture")
    words = [PYTHON / "explain_folder.py", folder, folder / "maps", "--server", server.address]
    done = run(sys.executable, *words)
    assert done.returncode == 1
    assert "broken.jpg: failed" in done.stderr
    assert "2 of 3 photos explained; 0 had their map before" in done.stdout
    assert {path.name for path in (folder / "maps").iterdir()} == {"cat.jpg.png", "coffee.jpg.png"}
    (folder / "broken.jpg").unlink()
    (folder / "maps/cat.jpg.png").unlink()
    done = run(sys.executable, *words)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 photos explained; 1 had their map before" in done.stdout


def test_a_batch_job_tells_an_unknown_model_once(server: Server, folder: Path) -> None:
    words = [folder, folder / "maps", "--server", server.address, "--model", "imagent"]
    done = run(sys.executable, PYTHON / "explain_folder.py", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("imagenet") == 1


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class Unsteady:
    """A client whose calls have these outcomes, one after another; an error is raised."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)

    async def explain(self, *_: Any, **__: Any) -> Any:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


FULL, AWAY = gradserve.ResourceExhausted("full", retry_after=0.001), gradserve.Unavailable("away")


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([FULL] * 9 + ["map"], "map"),
        ([AWAY, FULL, AWAY, "map"], "map"),
        ([AWAY] * 3, gradserve.Unavailable),
        ([gradserve.ResourceExhausted("the reply is too large"), "map"], gradserve.ResourceExhausted),
        ([gradserve.InvalidArgument("no picture"), "map"], gradserve.InvalidArgument),
    ],
)
async def test_a_batch_job_asks_again_where_that_helps(outcomes: list[Any], expected: Any) -> None:
    job = module(PYTHON / "explain_folder.py")
    job.PAUSES = (0, 0)
    client = Unsteady(*outcomes)
    if isinstance(expected, str):
        assert await job.explain(client, Path("cat.jpg"), "") == expected
        assert not client.outcomes
    else:
        with pytest.raises(expected):
            await job.explain(client, Path("cat.jpg"), "")


def test_torch_differentiates_through_the_service(server: Server) -> None:
    """Its gradient by the pixels, and by a parameter before them, are those of the same network on this machine."""
    example, model = module(PYTHON / "remote_gradient.py"), prepared("imagenet")
    x = pictures(model, 2)
    labels = torch.tensor([3, 7])
    shift = torch.zeros(3, 1, 1)

    def slopes(logits: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, ...]:
        images, by = x.clone().requires_grad_(), shift.clone().requires_grad_()
        loss = F.cross_entropy(logits(images * 0.9 + 0.05 + by), labels)
        return torch.autograd.grad(loss, [images, by])

    with gradserve.Client(server.address) as client:
        ours = slopes(lambda images: example.logits_of(images, client))
    for mine, exact in zip(ours, slopes(model), strict=True):
        assert off(mine, exact) < 2e-3


def test_a_sticker_is_learnt_through_the_service(server: Server, folder: Path) -> None:
    words = [folder, "--steps", 8, "--out", folder / "sticker.png", "--server", server.address]
    done = run(sys.executable, PYTHON / "remote_gradient.py", *words)
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("step")]
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 1
    assert "toaster" in done.stdout.splitlines()[-1]
    with Image.open(folder / "sticker.png") as sticker:
        assert sticker.size == (64, 64)


# Node


@pytest.fixture(scope="module")
def node() -> str:
    """Node, with the packages that the example needs; the test is skipped where they cannot be had."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs node and npm")
    done = run("npm", "--prefix", NODE, "install", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=0")
    if done.returncode and any(code in done.stderr for code in NO_NETWORK):
        pytest.skip(f"needs the packages of examples/node, and npm has no network: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return "node"


def test_node_predicts_and_explains(node: str, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSERVE_SERVER", server.address)
    done = run(node, NODE / "explain.js", folder / "coffee.jpg", folder / "heat.png")
    assert done.returncode == 0, done.stderr
    *classes, saved = done.stdout.splitlines()
    assert len(classes) == 5
    assert classes[0].endswith("%  espresso")
    assert saved.endswith("heat.png: grad_cam of espresso")
    with Image.open(folder / "heat.png") as heat:
        assert (heat.format, heat.size) == ("PNG", (224, 224))


def test_node_attacks_by_gradients_alone(
    node: str, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADSERVE_SERVER", server.address)
    with Image.open(folder / "coffee.jpg") as photo:
        photo.resize((224, 224)).save(folder / "coffee.png")
    done = run(node, NODE / "pgd.js", folder / "coffee.png", folder / "adversarial.png")
    assert done.returncode == 0, done.stderr
    before, after, moved = done.stdout.splitlines()
    assert "coffee.png: espresso" in before
    assert "espresso" not in after
    assert moved == "4 of 255 levels at most"
    with Image.open(folder / "coffee.png") as photo, Image.open(folder / "adversarial.png") as changed:
        assert np.abs(np.asarray(photo, np.int16) - np.asarray(changed, np.int16)).max() == 4


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "usage: node explain.js photo.jpg"),
        (["nowhere.jpg"], "no such file"),
        ([__file__], "INVALID_ARGUMENT: image: not a picture"),
    ],
)
def test_node_tells_what_is_wrong(
    node: str, server: Server, words: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADSERVE_SERVER", server.address)
    done = run(node, NODE / "explain.js", *words)
    assert done.returncode == 1
    assert text in done.stderr


NODE_DETAILS = """
import { call, connect, details, explained } from "%s/client.js";
const client = connect();
for (const model of ["invalid", "full", "missing", "broken"]) {
  const error = await call(client, "predict", { image: { encoded: Buffer.from("x") }, model }).catch((e) => e);
  console.log(JSON.stringify({ ...details(error), text: explained(error) }));
}
client.close();
"""


def test_node_reads_the_details_of_errors(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeServer()
    fake.server.start()
    monkeypatch.setenv("GRADSERVE_SERVER", fake.target)
    done = run(node, "--input-type=module", "--eval", NODE_DETAILS % NODE)
    fake.server.stop(None)
    assert done.returncode == 0, done.stderr
    invalid, full, missing, broken = map(json.loads, done.stdout.splitlines())
    assert [(each["field"], each["description"]) for each in invalid["violations"]] == BAD_FIELDS
    assert invalid["text"] == "INVALID_ARGUMENT: " + "\n  ".join(f"{field}: {text}" for field, text in BAD_FIELDS)
    assert (full["reason"], full["retrySeconds"]) == ("QUEUE_FULL", 2.5)
    assert full["text"] == "RESOURCE_EXHAUSTED: the queue is full\n  try again in 2.5 s"
    assert (missing["reason"], missing["violations"]) == ("UNKNOWN_MODEL", [])
    assert (broken["reason"], broken["retrySeconds"], broken["text"]) == ("", None, "INTERNAL: a fault")


def test_node_says_where_no_server_is(node: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSERVE_SERVER", "127.0.0.1:9")
    done = run(node, NODE / "explain.js", folder / "cat.jpg")
    assert done.returncode == 1
    assert "no server answers at 127.0.0.1:9; start one with: gradserve serve" in done.stderr
