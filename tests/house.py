"""Prints what the house looks like: sizes, floors, names used twice, circles of imports. `make check` runs it."""

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLIENT, SERVER = ROOT / "client" / "gradserve", ROOT / "server" / "gradserve_server"
GENERATED = {"v1", "v2"}  # the folders of the stubs
Graph = dict[str, set[str]]  # modules, and those that each imports when it is imported itself


def sources(package: Path) -> list[Path]:
    """Files of a package that people write."""
    return sorted(path for path in package.rglob("*.py") if not GENERATED & set(path.parts))


def flat_modules(folder: Path) -> int:
    """Modules of a folder, without those of its subfolders."""
    return sum(path.name not in ("__init__.py", "__main__.py") for path in folder.glob("*.py"))


def lines(package: Path) -> int:
    """Lines of all files of a package that people write."""
    return sum(len(path.read_text().splitlines()) for path in sources(package))


def longest_file(package: Path) -> tuple[int, str]:
    """Lines and name of the longest file."""
    return max((len(path.read_text().splitlines()), str(path.relative_to(package))) for path in sources(package))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Names of a file's functions with the lines of their bodies, without docstrings."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[ast.get_docstring(node) is not None :]
            yield node.name, (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def longest_function(package: Path) -> tuple[int, str]:
    """Lines and name of the longest function."""
    return max(
        (size, f"{path.relative_to(package)}: {name}") for path in sources(package) for name, size in functions(path)
    )


def repeated_classes(package: Path) -> dict[str, int]:
    """Names that more than one class of a package has, and how many have each."""
    names = Counter(
        node.name
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    return {name: count for name, count in sorted(names.items()) if count > 1}


def import_graph(package: Path) -> Graph:
    """What each module of a package imports at once; what a function imports later makes no circle."""
    modules = {".".join(path.relative_to(package).with_suffix("").parts): path for path in sources(package)}
    graph: Graph = defaultdict(set)
    for name, path in modules.items():
        inside = name.split(".")[:-1]
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                base = [*inside[: len(inside) - node.level + 1], *(node.module or "").split(".")]
                origin = ".".join(filter(None, base))
                imported = {f"{origin}.{alias.name}".lstrip(".") for alias in node.names}
                graph[name] |= {each if each in modules else origin for each in imported} & modules.keys()
    return graph


def circles(graph: Graph) -> list[set[str]]:
    """Groups of modules each of which imports all others of its group, over however many steps."""
    reached = {name: _reached(graph, name) for name in graph}
    groups = {frozenset(other for other in reached[name] if name in reached.get(other, ())) for name in graph}
    return [set(group) for group in groups if group]


def _reached(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph.get(waiting.pop(), set()) - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def figures() -> Iterator[tuple[str, str]]:
    """What is counted, and what came of it."""
    folders = (CLIENT, CLIENT / "cli", SERVER / "api")
    yield "flat modules in client, cli, api", ", ".join(str(flat_modules(folder)) for folder in folders)
    yield "lines of client, server", f"{lines(CLIENT)}, {lines(SERVER)}"
    for name, package in (("client", CLIENT), ("server", SERVER)):
        yield f"longest file of the {name}", "{} lines, {}".format(*longest_file(package))
        yield f"longest function of the {name}", "{} lines, {}".format(*longest_function(package))
        yield f"circles of imports, {name}", str(len(circles(import_graph(package))))
    repeated = repeated_classes(SERVER)
    yield "class names used more than once, server", f"{len(repeated)} {' '.join(repeated)}"
    yield "lines of README.md", str(len((ROOT / "README.md").read_text().splitlines()))


def main() -> int:
    """Prints a line for each figure."""
    for name, value in figures():
        print(f"{name:42} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
