"""Runs the client's tests without torch, at the versions that pyproject.toml allows: the lowest, the newest, others.

    python tests/client/compatibility.py [--short] [lowest | newest | protobuf4 ...]

Builds a wheel of this repository and installs it into fresh virtual environments of the running Python. `--short`,
for each change: the fewest environments that have every major version of protobuf, and all tests in the lowest alone.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ["pytest>=8.3", "pytest-asyncio>=1.0", "pytest-timeout>=2.3"]
PROTOBUFS = (4, 5, 6, 7)  # Its major versions that the client's stubs are read by.
SHORT = ("lowest", "protobuf5", "protobuf6", "newest")
# What of the client depends on protobuf and grpcio: files of tests/client.
MESSAGE_TESTS = (
    "attack",
    "certify",
    "client",
    "differentiate",
    "errors",
    "influence",
    "making",
    "management",
    "messages",
    "results",
)
PROOF = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"


def lowest() -> list[str]:
    """The lower bounds of the dependencies, as pins."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [re.sub(r">=\s*([\d.]+).*", r"==\1", dependency) for dependency in dependencies]


def run(*command: str | Path) -> int:
    """Run a command in the repository; its exit code."""
    print("$", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def copied(folder: Path) -> Path:
    """A copy of what a wheel is built from: building leaves files behind."""
    for part in ("client", "server"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", "build"))
    for part in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, folder)
    return folder


def installed(folder: Path, name: str) -> str:
    """The version of a package in an environment, or nothing."""
    paths = [str(path) for path in folder.glob("lib/python*/site-packages")]
    return next((each.version for each in distributions(name=name, path=paths)), "")


def tested(name: str, pins: Sequence[str], wheel: Path, folder: Path, tests: Sequence[str]) -> bool:
    """Whether tests of the client pass in a fresh environment with these pins."""
    print(f"\n=== {name}, Python {sys.version.split()[0]} ===", flush=True)
    venv.create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    if run(*pip, "install", "--quiet", wheel, *pins, *TOOLS):
        return False
    run(*pip, "list")
    alone = ["-o", "addopts=-ra", "-o", "pythonpath=", "--confcutdir=tests/client"]  # Without what all tests share.
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *alone, *tests]
    return not run(python, "-c", PROOF) and not run(*pytest)


def untried(folder: Path, chosen: Sequence[str]) -> list[int]:
    """The major versions of protobuf that none of the environments has."""
    majors = {installed(folder / name, "protobuf").partition(".")[0] for name in chosen}
    return [major for major in PROTOBUFS if str(major) not in majors]


def main() -> int:
    """0 if all chosen environments pass."""
    pins = {"lowest": lowest(), "newest": []}
    pins |= {f"protobuf{major}": [f"protobuf>={major},<{major + 1}"] for major in PROTOBUFS}
    short, named = "--short" in sys.argv, [name for name in sys.argv[1:] if name != "--short"]
    chosen = named or list(SHORT if short else pins)
    messages = [f"tests/client/test_{word}.py" for word in MESSAGE_TESTS]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = copied(folder / "source")
        if run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source):
            return 1
        (wheel,) = folder.glob("*.whl")
        passed = {
            name: tested(
                name, pins[name], wheel, folder / name, messages if short and name != "lowest" else ["tests/client"]
            )
            for name in chosen
        }
        missing = [] if named else untried(folder, chosen)
    print("\n" + "\n".join(f"{name}: {'passed' if ok else 'FAILED'}" for name, ok in passed.items()))
    if missing:
        print(f"no environment has protobuf {' or '.join(map(str, missing))}")
    return 0 if all(passed.values()) and not missing else 1


if __name__ == "__main__":
    sys.exit(main())
