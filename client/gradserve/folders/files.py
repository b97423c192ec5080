"""The files of a folder of maps: for each picture an .npz with its maps and where they come from, and its overlays."""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradserve.colours import Colormap
from gradserve.datasets import IMAGE_SUFFIXES
from gradserve.results.common import save_arrays, slug
from gradserve.results.explain import Explanations

SETTINGS, PAGE = "settings.json", "index.html"
_ENDING = ".npz"
_QUALITY = 90  # Of the overlays' JPEG.


class OtherSettings(ValueError):
    """The folder holds maps of other settings, another model or other weights."""


@dataclass(frozen=True)
class Picture:
    """A picture of the folder: its path from there, and where it lies."""

    name: str
    path: Path


def pictures(folder: Path, out: Path) -> list[Picture]:
    """All pictures in the folder and in those below it, by name, but for what `out` holds. Raises ValueError."""
    ours = out.resolve()

    def counts(path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        picture = path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        return picture and not hidden and ours not in path.resolve().parents

    found = [Picture(each.relative_to(folder).as_posix(), each) for each in sorted(folder.rglob("*")) if counts(each)]
    if not found:
        raise ValueError(f"{folder} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}), nor do the folders in it")
    return found


class MapFolder:
    """The folder that the maps go to. What is in it already is not computed again."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        """`settings`: what decides the maps. Raises OtherSettings where those in the folder are of others."""
        self.path = path
        file = path / SETTINGS
        if file.exists() and not restart:
            _check_same(file, settings)
        path.mkdir(parents=True, exist_ok=True)
        _replace(file, json.dumps(settings, indent=2) + "\n")
        self._kept = not restart

    def has(self, picture: Picture) -> bool:
        """Whether the maps of this picture are here, and the picture is the same as then."""
        if not self._kept:
            return False
        metadata = read(self._file(picture))
        if not metadata:
            return False
        sha256 = hashlib.sha256(picture.path.read_bytes()).hexdigest()
        return all(each["picture"]["sha256"] == sha256 for each in metadata)

    def keep(self, picture: Picture, maps: Explanations, colormap: Colormap | None) -> None:
        """Saves the maps and overlays of a picture. The file of the maps comes last, and whole or not at all."""
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
        save_arrays(part, {"explanations": entries}, maps=np.stack([each.map for each in maps]))
        part.replace(file)

    def kept(self, pictures: list[Picture]) -> Iterator[tuple[Picture, Path, list[dict[str, Any]]]]:
        """The pictures that have maps here, each with the folder of its files and what is known of its maps."""
        for picture in pictures:
            metadata = read(self._file(picture))
            if metadata:
                yield picture, self._file(picture).parent, metadata

    def _file(self, picture: Picture) -> Path:
        return self.path / f"{picture.name}{_ENDING}"


def read(path: Path) -> list[dict[str, Any]]:
    """What a file says of each of its maps; nothing where there is no such file, or one that cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            metadata = json.loads(str(file["metadata"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return []
    entries = metadata.get("explanations", [metadata]) if isinstance(metadata, dict) else []
    return [each for each in entries if isinstance(each, dict) and "picture" in each]


def _check_same(file: Path, settings: Mapping[str, Any]) -> None:
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        before = {}
    differing = [name for name in settings if before.get(name) != settings[name]]
    if differing:
        texts = [f"{name} was {before.get(name)!r} and is {settings[name]!r}" for name in differing]
        raise OtherSettings(
            f"{file.parent} holds maps of other settings: {'; '.join(texts)}. Give another --out, or --restart to "
            "compute all of them anew"
        )


def _replace(file: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = file.with_name(f".{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
