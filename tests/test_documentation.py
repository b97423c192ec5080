"""README and docs/: links resolve, pages stay short, examples run, and nothing that can be asked for is left out."""

import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields
from fractions import Fraction
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from client import fake
from gradserve import cli
from gradserve.load import requests
from gradserve.load.mix import read_mix
from gradserve.v1 import concepts_pb2, management_pb2, models_pb2, service_pb2
from gradserve_server.__main__ import serve
from gradserve_server.api.admission.tokens import read_tokens
from gradserve_server.config import LimitSettings, PoolSettings, ServerSettings, read_settings
from gradserve_server.methods.attack import METHODS as ATTACKS
from gradserve_server.methods.explain import METHODS as EXPLANATIONS
from gradserve_server.methods.explain.saliency import gradient_x_input
from gradserve_server.methods.influence import METHODS as INFLUENCES
from gradserve_server.methods.maximize import PRESETS, MaximizeSettings
from gradserve_server.methods.stylize import StylizeSettings
from gradserve_server.metrics import Metrics
from gradserve_server.models.catalogue import EMBEDDED, ModelSpec
from gradserve_server.offline.check import check
from gradserve_server.offline.finetune import finetune
from gradserve_server.offline.index import index

ROOT = Path(__file__).resolve().parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
MAX_README_LINES, MAX_PAGE_LINES, MAX_LINE = 160, 120, 120
PAGES = sorted(DOCS.glob("*.md"))
MORE = ("SECURITY.md", "server/README.md", "tests/bench/README.md", "examples/README.md")
ALL = [README, *PAGES, *(ROOT / name for name in MORE)]
ADDRESS = "127.0.0.1:50051"  # of the server in the examples
SERVER_COMMANDS: dict[str, Callable[..., None]] = {
    "serve": serve,
    "check": check,
    "index": index,
    "finetune": finetune,
}
BENCH_ONLY = {"httpx", "litserve"}  # packages that only benchmarks need
# Commands of the client that take long, or ask for more than the fake server has: only their arguments are checked.
NOT_RUN = {"demo", "robustness", "surrogate", "bench", "bias", "shape-bias", "augment", "models", "replay"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, *languages: str) -> Iterator[str]:
    """The code of a page in one of these languages; "" is a block that names none."""
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE):
        if language in languages:
            yield code


def commands(path: Path) -> Iterator[str]:
    """Every line of a page that a reader would type."""
    for code in blocks(path, "", "yaml"):
        for line in code.splitlines():
            for command in re.split(r" && |^- run: |^\$ ", line):
                if command.startswith(("gradserve ", "make ")):
                    yield command


def cases(find: Callable[[Path], Iterator[str]], pages: list[Path] = ALL) -> list[Any]:
    return [pytest.param(each, id=f"{name_of(page)}-{i}") for page in pages for i, each in enumerate(find(page))]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as they are made where the page is shown."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_stay_short() -> None:
    assert len(README.read_text().splitlines()) <= MAX_README_LINES
    long = {page.name for page in PAGES if len(page.read_text().splitlines()) > MAX_PAGE_LINES}
    assert not long


@pytest.mark.parametrize("page", [*ALL, ROOT / "CHANGELOG.md"], ids=name_of)
def test_lines_of_prose_stay_short(page: Path) -> None:
    """Code, rows of tables and pictures are as long as they are."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.M).splitlines()
    assert not [line for line in prose if len(line) > MAX_LINE and not line.startswith(("|", "!["))]


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_every_link_resolves(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    assert links or page.name in ("embed.md", "scale.md")
    for link in links:
        target, _, anchor = link.partition("#")
        to = (page.parent / target).resolve() if target else page
        assert "://" in link or to.exists(), link
        assert not anchor or anchor in anchors(to), link


def test_every_page_is_in_the_index() -> None:
    listed = set(re.findall(r"\]\(([\w-]+)\.md\)", (DOCS / "index.md").read_text()))
    assert listed == {page.stem for page in PAGES} - {"index"}


@pytest.mark.parametrize("page", [ROOT / "server/README.md", DOCS / "contributing.md"], ids=name_of)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    files = {
        "/" + str(path.relative_to(ROOT))
        for part in ("client", "server", "tests", "protos", "docs")
        for path in (ROOT / part).rglob("*.*")
    }
    for name in re.findall(r"`([\w./]+\.(?:py|proto|md))`", page.read_text()):
        assert "WORD" in name or (ROOT / name).exists() or any(file.endswith("/" + name) for file in files), name


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_every_benchmark_that_is_named_is_there(page: Path) -> None:
    for name in re.findall(r"tests\.bench\.(\w+)", page.read_text()):
        assert any((ROOT / "tests/bench" / each).exists() for each in (f"{name}.py", f"{name}/__main__.py")), name


def test_a_benchmark_starts_from_the_projects_folder() -> None:
    """Alone, and not only where pytest has `tests` on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "tests.bench.overload", "--help"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "tests/bench").glob("[a-z]*.py")))
def test_every_benchmark_can_be_imported(name: str) -> None:
    try:
        import_module(f"tests.bench.{name}")
    except ModuleNotFoundError as missing:
        if missing.name not in BENCH_ONLY:
            raise
        pytest.skip(f"needs {missing.name}, which `make .venv/bench` installs")


# Examples


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[fake.FakeServer]:
    """The client's tests' server with the classes that the examples name, in an empty folder."""
    names = ["tabby", "tiger cat", "toaster", "three", "cat", "flamingo", "volcano", "truck", "horse", "ship"]
    monkeypatch.setattr(fake, "CLASSES", [*fake.CLASSES, *names])
    monkeypatch.chdir(tmp_path)
    server = fake.FakeServer()
    monkeypatch.setenv("GRADSERVE_SERVER", server.target)
    server.server.start()
    yield server
    server.server.stop(None)


def make_files(words: list[str]) -> None:
    """The files and folders that an example names."""
    for before, word in pairwise(["", *words]):
        path = Path(word)
        if word.endswith("/") and before == "explain":
            path.mkdir()
            Image.new("RGB", (60, 40)).save(path / "photo.png")
        elif path.suffix in {".jpg", ".png"} and not before.startswith("--out"):
            path = path.with_stem(path.stem.replace("*", "photo"))
            Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(path)
        elif path.suffix in {".npz", ".toml"}:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        elif before in ("--data", "--masks", "augment") or (before == "--style" and word.endswith("/")):
            path.mkdir(parents=True)
        elif before in ("--negatives", "--class-images", "--concept") and word.endswith("/") and not path.exists():
            path.mkdir()
            for i in range(3):
                Image.new("RGB", (20, 20), (i, 0, 0)).save(path / f"{i}.png")
        elif path.suffix in {".npy"} and not before.startswith("--out"):
            np.save(path, np.ones(4, np.float32))


def python_examples(page: Path) -> Iterator[str]:
    return (code for code in blocks(page, "python") if "import gradserve" in code)


@pytest.mark.parametrize("code", cases(python_examples))
def test_python_examples_run(server: fake.FakeServer, code: str) -> None:
    make_files(re.findall(r'"([\w-]+\.(?:jpg|png))"', code))
    exec(compile(code.replace(ADDRESS, server.target), "example", "exec"), {})
    assert server.requests


def test_the_network_of_the_example_can_be_built() -> None:
    (code,) = (code for code in blocks(DOCS / "models.md", "python") if "import torch" in code)
    names: dict[str, Any] = {}
    exec(compile(code, "example", "exec"), names)
    assert names["good"](classes=7)(names["torch"].zeros(2, 3, 16, 16)).shape == (2, 7)


def test_the_method_of_the_example_is_the_servers() -> None:
    (code,) = (code for code in blocks(DOCS / "contributing.md", "python"))
    assert code.strip() == inspect.getsource(gradient_x_input).strip()


def test_every_python_example_is_tested() -> None:
    elsewhere = (DOCS / "contributing.md", DOCS / "inference-protocol.md")  # The latter in tests/api/test_triton.py.
    known = {
        *(code for page in elsewhere for code in blocks(page, "python")),
        *(code for page in ALL for code in python_examples(page)),
    }
    others = [code for page in ALL for code in blocks(page, "python") if code not in known]
    assert len(others) == 1
    assert "def good(" in others[0]


@pytest.mark.parametrize("line", cases(commands))
def test_commands_are_understood(server: fake.FakeServer, line: str) -> None:
    program, *words = shlex.split(line.replace("$SERVER", server.target), comments=True)
    if program == "make":
        assert f"\n{words[0]}:" in (ROOT / "Makefile").read_text()
        return
    understand(server, words)


def understand(server: fake.FakeServer, words: list[str]) -> None:
    """Run a command of `gradserve` with the files that it names, or check its arguments alone."""
    make_files([word.removeprefix("like:") for word in words])
    words = [file for word in words for file in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    name, *arguments = words
    if name in SERVER_COMMANDS:
        app = typer.Typer()
        app.command()(SERVER_COMMANDS[name])
        typer.main.get_command(app).make_context(name, arguments)
    elif name in NOT_RUN:
        typer.main.get_command(cli.app).commands[name].make_context(name, arguments)
    else:
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert not ended.value.code
        assert server.requests or name == "health"


def examples_of_help() -> Iterator[Any]:
    """The examples in every command's --help; each has one at least."""
    for name, command in typer.main.get_command(cli.app).commands.items():
        text = SERVER_COMMANDS[name].__doc__ if name in SERVER_COMMANDS else command.help
        examples = re.findall(r"^ *Example: `?(gradserve .*?)`?$", text, re.MULTILINE)
        assert examples, f"gradserve {name} --help has no example"
        yield from (pytest.param(name, line, id=f"{name}-{place}") for place, line in enumerate(examples))


@pytest.mark.parametrize(("name", "line"), list(examples_of_help()))
def test_examples_in_help_run(server: fake.FakeServer, name: str, line: str) -> None:
    _, *words = shlex.split(line)
    assert words[0] == name
    understand(server, words)


def toml(path: Path, kind: str) -> Iterator[str]:
    """The mixes of `gradserve bench` on a page, its files of tokens, or the server's configurations."""
    marks = {"mix": "[[requests]]", "tokens": "sha256 ="}
    for code in blocks(path, "toml"):
        if kind == next((name for name, mark in marks.items() if mark in code), "configuration"):
            yield code


@pytest.mark.parametrize("code", cases(partial(toml, kind="tokens")))
def test_files_of_tokens_are_read(tmp_path: Path, code: str) -> None:
    (tmp_path / "tokens.toml").write_text(code)
    assert read_tokens(tmp_path / "tokens.toml")


@pytest.mark.parametrize("code", cases(partial(toml, kind="mix")))
def test_mixes_are_read(tmp_path: Path, code: str) -> None:
    (tmp_path / "mix.toml").write_text(code)
    assert requests.built(read_mix(tmp_path / "mix.toml"), [b""])


@pytest.mark.parametrize("code", cases(partial(toml, kind="configuration")))
def test_configurations_are_read(tmp_path: Path, code: str) -> None:
    (tmp_path / "gradserve.toml").write_text(code)
    (tmp_path / "labels.txt").write_text("no\nyes\n")
    assert {spec.name for spec in read_settings(tmp_path / "gradserve.toml").models} == set(
        tomllib.loads(code)["models"]
    )


# Nothing is left out


def row(page: Path, name: str) -> list[str]:
    """The cells of the row of a table that begins with that name."""
    rows = re.findall(rf"^\| `{name}` \|(.*)\|$", page.read_text(), re.MULTILINE)
    assert len(rows) == 1, f"{page.name} has {len(rows)} rows that begin with `{name}`; it needs one"
    return [cell.strip() for cell in rows[0].split("|")]


def shown(default: Any) -> str:
    """A default as the tables write it."""
    return {"": "found", inspect.Parameter.empty: "required"}.get(default, str(default).lower())


METHODS = [
    pytest.param(page, name, method.function, id=f"{page}-{name}")
    for page, methods in (("explain", EXPLANATIONS), ("attack", ATTACKS))
    for name, method in methods.items()
]


@pytest.mark.parametrize(("page", "method", "function"), METHODS)
def test_every_method_has_its_row_with_all_defaults(page: str, method: str, function: Callable[..., Any]) -> None:
    written = dict(re.findall(r"`(\w+)` \(([^,;:) ]+)", row(DOCS / f"{page}.md", method)[1]))
    parameters = inspect.signature(function).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert written.keys() == defaults.keys()
    for name, default in defaults.items():
        if isinstance(default, bool) or not isinstance(default, int | float):
            assert written[name] == shown(default), name
        else:
            assert float(Fraction(written[name])) == pytest.approx(default), name


@pytest.mark.parametrize("method", INFLUENCES)
def test_every_method_of_influence_has_its_row(method: str) -> None:
    assert row(DOCS / "influence.md", method)


@pytest.mark.parametrize(
    "service",
    [service_pb2, models_pb2, management_pb2, concepts_pb2],
    ids=["gradients", "models", "management", "directions"],
)
def test_every_rpc_is_in_the_readme_with_a_page(service: Any) -> None:
    for contract in service.DESCRIPTOR.services_by_name.values():
        for rpc in contract.methods:
            assert re.search(rf"^\|[^|]*`{rpc.name}`[^|]*\|.*\]\(docs/\w+\.md", README.read_text(), re.MULTILINE), (
                rpc.name
            )


def settings() -> Iterator[tuple[str, str]]:
    for name, section in (("server", ServerSettings), ("pool", PoolSettings), ("limits", LimitSettings)):
        yield from (("deploy", f"{name}.{field}") for field in section.model_fields)
    yield from (("models", field) for field in ModelSpec.model_fields if field != "name")
    yield from (("models", name) for name in EMBEDDED)
    yield from (("maximize", name) for name in (*PRESETS, *(field.name for field in fields(MaximizeSettings))))
    yield from (("stylize", field.name) for field in fields(StylizeSettings))
    yield from (("operations", sample) for sample in sorted(metrics()))


def metrics() -> set[str]:
    """The names under which the metrics are read, without the parts of histograms."""
    families = Metrics().registry.collect()
    return {f"{each.name}_total" if each.type == "counter" else each.name for each in families}


@pytest.mark.parametrize(("page", "setting"), list(settings()))
def test_every_setting_and_metric_is_described(page: str, setting: str) -> None:
    assert f"`{setting}`" in (DOCS / f"{page}.md").read_text()
