"""Indexes that a server builds for itself, in the user's cache."""

import fcntl
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .folder import IndexFault, IndexFolder


def cached(name: str, kind: Callable[[Path], IndexFolder[Any]], build: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache; the index is built where it is missing or damaged."""
    folder = cache() / name
    with folder.with_name(f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # Other workers may build the same index.
        try:
            kind(folder).verify()
        except IndexFault:
            build(folder)
    return folder


def cache() -> Path:
    """The user's cache folder, or one among the temporary files where there is none to write to."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gradserve"
    with suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
    if not os.access(home, os.W_OK):
        home = Path(tempfile.gettempdir()) / "gradserve"
        home.mkdir(exist_ok=True)
    return home
