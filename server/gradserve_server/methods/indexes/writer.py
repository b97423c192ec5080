"""Writing an index: rows go to files in a folder beside it, which takes its name only when it is complete."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from .folder import MANIFEST, Array, FolderManifest, IndexFault, files_of

STATE = "state.json"
SAVE_SECONDS = 20.0  # The least seconds between two saves of an unfinished index.


class SaveClock:
    """Says when it is time to save what would be lost if the process were killed."""

    def __init__(self) -> None:
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether it is time; if so, the next time is SAVE_SECONDS later."""
        if time.monotonic() - self._saved < SAVE_SECONDS:
            return False
        self._saved = time.monotonic()
        return True


class Writer:
    """A folder that is being filled. An unfinished folder of the same purpose is continued."""

    def __init__(self, out: Path, purpose: dict[str, Any], columns: dict[str, tuple[np.dtype[Any], int]]) -> None:
        """`columns`: file name -> type and numbers per example (0: one record); `purpose` says what it will be."""
        self.out, self.folder = out, out.with_name(f"{out.name}.partial")
        self.purpose, self._columns = purpose, columns
        self.done = 0
        if self._unfinished_purpose() != purpose:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.done = int(self._state().get("done", 0))
        sizes = {name: dtype.itemsize * max(1, width) for name, (dtype, width) in columns.items()}
        self._files = {name: self._open(name, self.done * size) for name, size in sizes.items()}
        self._records = {kind: self._open_records(kind) for kind in ("names", "thumbs")}
        self.save()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def resumed(self) -> bool:
        """Whether rows were there already."""
        return self.done > 0

    def append(self, columns: dict[str, Array], names: Sequence[str], thumbs: Sequence[bytes]) -> None:
        """Appends the next examples."""
        for name, values in columns.items():
            self._files[name].write(np.ascontiguousarray(values, self._columns[name][0]).tobytes())
        for kind, records in (("names", [name.encode() for name in names]), ("thumbs", thumbs)):
            data, begins = self._records[kind]
            for record in records:
                data.write(record)
                begins.write(np.uint64(data.tell()).tobytes())
        self.done += len(names)

    def save(self) -> None:
        """Writes everything that was appended to disk, so that it survives the end of the process."""
        for file in [*self._files.values(), *(f for pair in self._records.values() for f in pair)]:
            file.flush()
            os.fsync(file.fileno())
        write_whole(self.folder / STATE, json.dumps({"purpose": self.purpose, "done": self.done}).encode())

    def read(self, name: str) -> Array:
        """A copy of the records of a file, or its rows mapped."""
        dtype, width = self._columns[name]
        if not width:
            return np.fromfile(self.folder / name, dtype)
        return np.memmap(self.folder / name, dtype, "r", shape=(self.done, width))

    def replace(self, name: str, values: Array) -> None:
        """Writes a whole file anew."""
        write_whole(self.folder / name, values.tobytes())

    def close(self) -> None:
        """Closes the files; what was saved can be continued later."""
        for file in [*self._files.values(), *(f for pair in self._records.values() for f in pair)]:
            file.close()

    def finish(self, manifest: FolderManifest, files: Sequence[str], scratch: Collection[str] = ()) -> None:
        """Takes the folder's final name, replacing an older index there. Columns named in `scratch` are left out."""
        self.close()
        names = [
            *(each for each in self._columns if each not in scratch),
            *(f"{kind}.{end}" for kind in self._records for end in ("bin", "idx")),
            *files,
        ]
        complete = manifest.model_copy(update={"files": files_of(self.folder, names)})
        write_whole(self.folder / MANIFEST, complete.model_dump_json(indent=1).encode())
        for path in self.folder.iterdir():
            if path.name not in (*names, MANIFEST):
                path.unlink()
        with tempfile.TemporaryDirectory(dir=self.out.parent, prefix=f"{self.out.name}.") as old:
            if self.out.exists():
                self.out.rename(Path(old) / "old")
            self.folder.rename(self.out)

    def _unfinished_purpose(self) -> Any:
        return self._state().get("purpose")

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.folder / STATE).read_text())
        except (OSError, ValueError):
            return {}
        return state

    def _open(self, name: str, size: int) -> Any:
        path = self.folder / name
        path.touch()
        os.truncate(path, size)
        return path.open("ab")

    def _open_records(self, kind: str) -> tuple[Any, Any]:
        begins = self._open(f"{kind}.idx", 8 * (self.done + 1) if self.resumed else 0)
        if not self.resumed:
            begins.write(np.uint64(0).tobytes())
            begins.flush()
        end = int(np.fromfile(self.folder / f"{kind}.idx", "<u8")[self.done])
        return self._open(f"{kind}.bin", end), begins


def check_replaceable(out: Path) -> None:
    """Raises IndexFault where there is something that is no index, lest an index take the place of other files."""
    if out.exists() and not (out / MANIFEST).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise IndexFault(f"--out: {out} is there already, and is no index; name another folder")


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
