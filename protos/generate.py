"""Generates the stubs in client/gradserve/v1 from the protos; with --check, says whether they are in step.

The compiler is the oldest grpcio-tools for Python 3.11 and 3.12, because generated code refuses to run with an
older protobuf or grpcio than it was made for. `make .venv` installs it, alone, in .venv/protoc.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = ROOT / "client"
COMPILER = ROOT / ".venv" / "protoc"
RUN = "import sys; from grpc_tools import _protoc_compiler as c; sys.exit(c.run_main([a.encode() for a in sys.argv]))"


def generate(out: Path) -> dict[str, str]:
    """Writes the stubs below `out` and returns their text by relative path."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    options = [f"-I{PROTOS}", f"-I{COMPILER / 'grpc_tools/_proto'}", f"--python_out={out}", f"--pyi_out={out}"]
    command = [sys.executable, "-c", RUN, *options, f"--grpc_python_out={out}", *sources]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(COMPILER)})
    for path in out.rglob("*_pb2_grpc.py"):  # A file without a service gets an empty one.
        if "class " not in path.read_text():
            path.unlink()
    return {str(p.relative_to(out)): p.read_text() for p in sorted(out.rglob("*_pb2*.py*")) if p.suffix != ".pyc"}


def main() -> int:
    """Generates in place, or compares: 0 in step, 1 not."""
    if not COMPILER.exists():
        print(f"{COMPILER} is missing: run `make .venv`", file=sys.stderr)
        return 2
    if "--check" not in sys.argv:
        print("\n".join(generate(STUBS)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
    committed = {str(p.relative_to(STUBS)): p.read_text() for p in sorted((STUBS / "gradserve/v1").glob("*_pb2*.py*"))}
    stale = sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))
    print(f"out of step: {', '.join(stale)}; run `make protos`" if stale else f"{len(fresh)} stubs in step")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
