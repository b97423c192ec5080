"""Generates the stubs of client and server from the protos; with --check, says whether they are in step.

The compiler is the oldest grpcio-tools for Python 3.11 and 3.12, because generated code refuses to run with an
older protobuf or grpcio than it was made for. `make .venv` installs it, alone, in .venv/protoc.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
# Where the stubs of each package lie. Those of `inference` are the server's own: its clients bring theirs.
HOMES = {
    "gradserve/v1": ROOT / "client/gradserve/v1",
    "inference": ROOT / "server/gradserve_server/api/inference/v2",
}
COMPILER = ROOT / ".venv" / "protoc"
RUN = "import sys; from grpc_tools import _protoc_compiler as c; sys.exit(c.run_main([a.encode() for a in sys.argv]))"


def generate() -> dict[Path, str]:
    """The text of every stub by the path where it belongs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
        options = [f"-I{PROTOS}", f"-I{COMPILER / 'grpc_tools/_proto'}", f"--python_out={out}", f"--pyi_out={out}"]
        command = [sys.executable, "-c", RUN, *options, f"--grpc_python_out={out}", *sources]
        subprocess.run(command, check=True, env={"PYTHONPATH": str(COMPILER)})
        stubs = {path.relative_to(out): path.read_text() for path in out.rglob("*_pb2*.py*")}
    return {
        HOMES[str(path.parent)] / path.name: text.replace("\nfrom inference import ", "\nfrom . import ")
        for path, text in sorted(stubs.items())
        if not path.name.endswith("_pb2_grpc.py") or "class " in text  # A file without a service gets an empty one.
    }


def main() -> int:
    """Generates in place, or compares: 0 in step, 1 not."""
    if not COMPILER.exists():
        print(f"{COMPILER} is missing: run `make .venv`", file=sys.stderr)
        return 2
    fresh = generate()
    if "--check" not in sys.argv:
        for path, text in fresh.items():
            path.write_text(text)
        print("\n".join(str(path.relative_to(ROOT)) for path in fresh))
        return 0
    committed = {path: path.read_text() for home in HOMES.values() for path in home.glob("*_pb2*.py*")}
    stale = sorted(path for path in fresh.keys() | committed.keys() if fresh.get(path) != committed.get(path))
    names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
    print(f"out of step: {names}; run `make protos`" if stale else f"{len(fresh)} stubs in step")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
