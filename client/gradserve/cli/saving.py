"""Where the pictures and maps that a command makes go."""

import re
from collections.abc import Sequence
from pathlib import Path

from gradserve.results import Explanation


class Places:
    """Gives every explanation a path of its own: the one that was asked for, or one in a folder."""

    def __init__(self, asked: Path | None, suffix: str, expected: int) -> None:
        self._file = asked if asked and asked.suffix and not asked.is_dir() else None
        self._folder = Path() if asked is None else asked
        self._suffix = suffix
        self._taken: set[Path] = set()
        if self._file and expected > 1:
            raise ValueError(f"{expected} files are to be written; give a folder instead of {asked}")

    def path(self, photo: Path, found: Explanation, several_targets: bool) -> Path:
        """The path for one explanation of a photo: PHOTO-METHOD[-TARGET], numbered if that is taken."""
        return self.place(
            "-".join([photo.stem, found.method, *([_slug(found.target_name)] if several_targets else [])])
        )

    def place(self, stem: str) -> Path:
        """The path that was asked for, or one of that name in the folder, numbered if that is taken."""
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            return self._file
        self._folder.mkdir(parents=True, exist_ok=True)
        path, number = self._folder / f"{stem}{self._suffix}", 1
        while path in self._taken:
            number += 1
            path = self._folder / f"{stem}-{number}{self._suffix}"
        self._taken.add(path)
        return path


def save(found: Explanation, path: Path, picture: str) -> Path:
    """Save the overlay or the heatmap, or the map itself if the path ends in .npy."""
    if picture == "heatmap" and path.suffix != ".npy":
        found.heatmap().save(path)
        return path
    return found.save(path)


def expected(photos: Sequence[Path], methods: Sequence[object], targets: Sequence[object]) -> int:
    """How many maps there will be."""
    return len(photos) * len(methods) * max(1, len(targets))


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_")[:60] or "target"
