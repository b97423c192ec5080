"""The client's types: an editor, or mypy --strict, finds typical mistakes, and finds none in right uses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
ROOT = Path(__file__).resolve().parents[2]
MISTAKES, RIGHT = (ROOT / "tests/client/types" / name for name in ("mistakes.py", "right_uses.py"))


@pytest.fixture(scope="module")
def rejected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[int]]:
    """The lines of both files in which mypy finds errors, by the file's name."""
    cache = tmp_path_factory.mktemp("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}"]
    command += ["--disable-error-code=import-untyped", str(MISTAKES), str(RIGHT)]  # Nothing of gRPC's has types.
    environment = {**os.environ, "MYPYPATH": str(ROOT / "client")}
    done = subprocess.run(command, cwd=cache, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    print(done.stdout)
    lines: dict[str, set[int]] = {MISTAKES.name: set(), RIGHT.name: set()}
    for path, line in re.findall(r"^(\S+?):(\d+): error", done.stdout, re.MULTILINE):
        if Path(path).name in lines:
            lines[Path(path).name].add(int(line))
    return lines


def test_every_mistake_is_rejected_and_nothing_else(rejected: dict[str, set[int]]) -> None:
    texts = MISTAKES.read_text().splitlines()
    marked = {place for place, text in enumerate(texts, 1) if text.endswith("# Mistake")}
    assert len(marked) >= 20
    assert rejected[MISTAKES.name] == marked


def test_right_uses_are_not_rejected(rejected: dict[str, set[int]]) -> None:
    assert rejected[RIGHT.name] == set()
