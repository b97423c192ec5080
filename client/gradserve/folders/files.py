"""The files of a folder of maps: for each picture an .npz with its maps and where they come from, and its overlays."""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradserve.colours import Colormap
from gradserve.datasets import IMAGE_SUFFIXES
from gradserve.folders.claims import SETTINGS, check_same, write_settings
from gradserve.results.common import save_arrays, slug
from gradserve.results.explain import Explanations

PAGE = "index.html"
_ENDING = ".npz"
_QUALITY = 90  # Of the overlays' JPEG.


@dataclass(frozen=True)
class Picture:
    """A picture of the folder: its path from there, and where it lies."""

    name: str
    path: Path


def pictures(folder: Path, out: Path) -> tuple[list[Picture], list[tuple[str, str]]]:
    """All pictures in the folder and in those below it, by name, but for what `out` holds.

    Links to folders are not followed. Also returns the folders that cannot be read, with the reason. Raises ValueError
    where there are no pictures, and where `out` is the folder itself or holds it.
    """
    ours, files, unread = out.resolve(), list[Path](), list[OSError]()
    if ours == folder.resolve() or ours in folder.resolve().parents:
        raise ValueError(f"--out {out} is the folder of the pictures, or holds it; give one beside it, or one in it")
    for root, folders, names in os.walk(folder, onerror=unread.append):
        here = Path(root)
        folders[:] = [each for each in folders if not each.startswith(".") and (here / each).resolve() != ours]
        files += [here / each for each in names if Path(each).suffix.lower() in IMAGE_SUFFIXES and each[0] != "."]
    found = [Picture(each.relative_to(folder).as_posix(), each) for each in sorted(files) if not _is_other(each)]
    if not found:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        more = "".join(f"; {each}" for each in unread)
        raise ValueError(f"{folder} holds no pictures ({endings}), nor do the folders in it{more}")
    return found, [(os.path.relpath(each.filename, folder), str(each)) for each in unread]


def _is_other(path: Path) -> bool:
    """Whether this is no file, such as a pipe. What cannot be looked at counts as a file, so that it is reported."""
    try:
        return path.exists() and not path.is_file()
    except OSError:
        return False


class MapFolder:
    """The folder that the maps go to. What is in it already is not computed again."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        """`settings`: what the maps depend on. Raises OtherSettings where maps in the folder were made with others."""
        self.path = path
        file = path / SETTINGS
        if file.exists() and not restart and any(path.rglob(f"*{_ENDING}")):
            check_same(path, settings, "maps", "Give another --out, or --restart to compute all of them anew")
        write_settings(path, settings)
        self._digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self._reused = not restart
        self._current = set[
            str
        ]()  # Names of pictures whose maps were made with these settings from their present bytes.

    def has(self, picture: Picture) -> bool:
        """Whether whole maps of this picture are here, made with these settings from the bytes that it has now.

        Maps that are partial, since time ran out, do not count.
        """
        metadata = self._read(picture) if self._reused else []
        if not metadata or any(is_partial(each) for each in metadata):
            return False
        try:
            sha256 = hashlib.sha256(picture.path.read_bytes()).hexdigest()
        except OSError:
            return False
        if any(each["picture"].get("sha256") != sha256 for each in metadata):
            return False
        self._current.add(picture.name)
        return True

    def keep(self, picture: Picture, maps: Explanations, colormap: Colormap | None) -> None:
        """Saves the maps and overlays of a picture. The file of the maps is written last, whole or not at all."""
        file = self._file(picture)
        file.parent.mkdir(parents=True, exist_ok=True)
        entries = []
        for place, each in enumerate(maps):
            several = "" if len(maps) == 1 else f"-{place}"
            overlay = file.with_name(f"{file.stem}{several}-{each.method}-{slug(each.target_name)}.jpg")
            each.overlay(colormap=colormap).save(overlay, quality=_QUALITY)
            metadata = each.metadata()
            metadata["picture"]["file"] = os.path.relpath(picture.path, file.parent)
            entries.append({**metadata, "overlay": overlay.name})
        part = file.with_name(f".{file.name}.part")
        document = {"settings_sha256": self._digest, "explanations": entries}
        save_arrays(part, document, maps=np.stack([each.map for each in maps]), masks=maps.masks())
        part.replace(file)
        self._current.add(picture.name)

    def kept(self, pictures: list[Picture]) -> Iterator[tuple[Picture, Path, list[dict[str, Any]]]]:
        """The pictures whose maps are known to be of their present bytes, by `has` and `keep`.

        Each comes with the folder of its files and what is known of its maps.
        """
        for picture in pictures:
            metadata = self._read(picture) if picture.name in self._current else []
            if metadata:
                yield picture, self._file(picture).parent, metadata

    def _read(self, picture: Picture) -> list[dict[str, Any]]:
        """What the file of a picture says of its maps; nothing where it is none of these settings."""
        document = _document(self._file(picture))
        entries = _entries(document) if document.get("settings_sha256") == self._digest else []
        return entries if all(isinstance(each.get("overlay"), str) for each in entries) else []

    def _file(self, picture: Picture) -> Path:
        return self.path / f"{picture.name}{_ENDING}"


def is_partial(metadata: Mapping[str, Any]) -> bool:
    """Whether this says of a map that time ran out before all of its samples were drawn."""
    late = any(str(text).startswith("TIME_UP") for text in metadata.get("warnings", ()))
    return bool(late and metadata.get("completed_fraction", 1) < 1)


def read(path: Path) -> list[dict[str, Any]]:
    """What a file says of each of its maps; nothing where there is no such file, or one that cannot be read."""
    return _entries(_document(path))


def _document(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            metadata = json.loads(str(file["metadata"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _entries(document: dict[str, Any]) -> list[dict[str, Any]]:
    entries = document.get("explanations", [document])
    known = isinstance(entries, list) and all(isinstance(each, dict) for each in entries)
    return entries if known and all(isinstance(each.get("picture"), dict) for each in entries) else []
