"""The architecture, read from the source: imports go one way, gRPC ends in api, files stay small."""

import ast
import inspect
import io
import re
import subprocess
import sys
import tokenize
from dataclasses import is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import house
import pytest

from gradserve_server.methods import TASKS

ROOT = Path(__file__).resolve().parents[1]
SERVER = ROOT / "server" / "gradserve_server"
# Each part may import those before it.
CHAIN = ["accel", "models", "engine", "methods", "pool", "api", "keeper", "offline", "__main__"]
LEAVES = {  # What these modules may import.
    "config": {"models", "logs"},
    "logs": set[str](),
    "memory": set[str](),
    "metrics": set[str](),
    "without_torch": set[str](),
}
USERS_OF_LEAVES = {"pool", "api", "keeper", "offline", "__main__"}
MOST_LINES = 300
MOST_FUNCTION = 40  # Lines of a body without its docstring.

SERVICE = (ROOT / "protos/gradserve/v1/service.proto").read_text()
RPCS = re.findall(r"^  rpc (\w+)\(", SERVICE, re.MULTILINE)

FILES = house.sources(SERVER)
SOURCES = [*FILES, *house.sources(house.CLIENT)]


@cache
def imports(path: Path) -> list[str]:
    """Absolute names of everything that a file of the server imports, wherever in the file."""
    package = ["gradserve_server", *path.relative_to(SERVER).parts[:-1]]
    names = list[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            names += (f"{name}.{alias.name}" for alias in node.names)
    return names


def part(name: str) -> str:
    """The part of the server that a module belongs to."""
    return name.split(".")[1]


def part_of(path: Path) -> str:
    return path.relative_to(SERVER).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SERVER)))
def test_imports_go_one_way(path: Path) -> None:
    mine = part_of(path)
    inside = {part(name) for name in imports(path) if name.startswith("gradserve_server.")} - {mine, "__version__"}
    if mine in LEAVES:
        assert inside <= LEAVES[mine]
    elif mine != "__init__":
        before = set(CHAIN[: CHAIN.index(mine)])
        assert inside <= before | (LEAVES.keys() if mine in USERS_OF_LEAVES else set())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SERVER)))
def test_grpc_ends_in_api(path: Path) -> None:
    wire = {name for name in imports(path) if name.split(".")[0].startswith("grpc") or "_pb2" in name}
    assert not wire or part_of(path) in ("api", "__main__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SERVER)))
def test_methods_and_models_know_no_transport(path: Path) -> None:
    if part_of(path) in ("models", "engine", "methods"):
        names = {name.split(".")[0] for name in imports(path)}
        assert not names & {"asyncio", "multiprocessing", "prometheus_client", "gradserve"}


@pytest.mark.parametrize("word", sorted({rpc.removeprefix("Stream").lower() for rpc in RPCS}))
def test_every_rpc_has_a_module_that_binds_and_replies(word: str) -> None:
    path = SERVER / "api/rpcs" / f"{word}.py"
    assert path.exists(), f"{path.relative_to(ROOT)} is missing"
    functions = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    missing = {"bind", "reply"} - functions
    assert not missing, f"{path.relative_to(ROOT)} defines no {' and no '.join(sorted(missing))}"


@pytest.mark.parametrize("word", TASKS)
def test_the_arguments_of_a_task_are_a_frozen_dataclass(word: str) -> None:
    """So that what crosses to a worker is typed, and nothing can change it on the way."""
    parameters = inspect.signature(TASKS[word], eval_str=True).parameters
    assert list(parameters) == ["job", "x", "arguments"]
    kind = parameters["arguments"].annotation
    assert kind is None or (is_dataclass(kind) and kind.__dataclass_params__.frozen)


def test_only_the_workers_side_of_the_pool_imports_torch() -> None:
    files = [*SERVER.rglob("pool/**/*.py"), *SERVER.rglob("api/**/*.py")]
    users = {path.name for path in files for name in imports(path) if name.split(".")[0].startswith("torch")}
    assert users == {"startup.py", "worker.py"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES
    for name, lines in house.functions(path):
        assert lines <= MOST_FUNCTION, f"{name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_comments_begin_with_a_capital(path: Path) -> None:
    """Or with what is no letter. A comment is a sentence of its own, and never the rest of a name."""
    assert lower_case_comments(path.read_text()) == []


def lower_case_comments(text: str) -> list[str]:
    """The comments that begin with a small letter, but for lines that continue one and words that tools read."""
    found, last = [], 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            alone, line = token.line.lstrip().startswith("#"), token.start[0]
            continued = alone and last == line - 1
            last = line if alone else 0
            if not continued and re.match(r"# *(?!type:|fmt:|noqa|pragma:)[a-z]", token.string):
                found.append(f"{line}: {token.string}")
    return found


def test_comments_with_a_small_letter_are_found() -> None:
    text = "# A block\n# of two lines.\nx = 1  # the first\ny = 2  # type: ignore\n# another\nz = 3  # [n, 3]\n"
    assert lower_case_comments(text) == ["3: # the first", "5: # another"]


def test_the_commands_that_need_no_server_import_nothing_of_its_rpcs() -> None:
    users = {path.name for path in SERVER.glob("offline/*.py") for name in imports(path) if part(f"{name}.") == "api"}
    assert users == set()


def test_class_names_are_unique_in_the_server() -> None:
    assert house.repeated_classes(house.SERVER) == {}


@pytest.mark.parametrize("package", [house.CLIENT, house.SERVER], ids=lambda path: path.name)
def test_no_modules_import_each_other_in_a_circle(package: Path) -> None:
    assert house.circles(house.import_graph(package)) == []


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}
    assert sorted(map(sorted, house.circles(graph))) == [["b", "c"], ["d"]]


@pytest.mark.parametrize(
    ("folder", "most"), {"client/gradserve": 10, "client/gradserve/cli": 6, "server/gradserve_server/api": 13}.items()
)
def test_folders_have_few_modules_beside_their_packages(folder: str, most: int) -> None:
    assert house.flat_modules(ROOT / folder) <= most


def test_tests_that_measure_time_are_where_make_test_looks_for_them() -> None:
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if re.search(r"mark\.alone\b", path.read_text())]
    assert {path.parent.name for path in files if path != Path(__file__)} == {"load"}


def test_the_stubs_are_in_step_with_the_protos() -> None:
    if not (ROOT / ".venv/protoc").exists():
        pytest.skip("needs the stubs' compiler: make .venv")
    done = subprocess.run(
        [sys.executable, ROOT / "protos/generate.py", "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", ["sync_client", "parameter_types"])
def test_what_is_generated_for_the_client_is_in_step(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / f"protos/{script}.py", "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_field_of_the_contract_is_documented() -> None:
    for path in (ROOT / "protos").rglob("*.proto"):
        text = path.read_text()
        for before, line in pairwise(line.strip() for line in text.splitlines()):
            if re.match(r"(message|enum|service|rpc|oneof) |(?!syntax|option)[^/]* = \d+;", line):
                assert before.startswith("//"), f"{path.name}: {line}"


def test_opentelemetry_is_an_extra_that_one_module_knows() -> None:
    users = {str(path.relative_to(SERVER)) for path in FILES if any("opentelemetry" in name for name in imports(path))}
    assert users == {"api/telemetry/tracing.py"}
