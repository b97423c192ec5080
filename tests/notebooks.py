"""Runs the notebooks of examples/ and keeps the pictures that they show: `make notebooks`.

`make test` runs them too, and keeps nothing.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.ipynb"))


def main() -> int:
    """Runs one after another; a cell that fails ends it with its error."""
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        metadata = dict(notebook.metadata)
        resources = {"metadata": {"path": str(path.parent)}}
        # Without times, and without the versions of this Python, only what the cells show changes in the file.
        NotebookClient(notebook, timeout=300, record_timing=False, resources=resources).execute()
        notebook.metadata = nbformat.from_dict(metadata)
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
