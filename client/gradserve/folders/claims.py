"""Folders of results keep the settings that made them, so that a run with other settings is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SETTINGS = "settings.json"


class OtherSettings(ValueError):
    """The folder holds results that were made with other settings, another model or other weights."""


def check_same(folder: Path, settings: Mapping[str, Any], what: str, way_out: str) -> None:
    """Raises OtherSettings where the folder's results were made with other settings.

    what: names the results in the error, such as "maps". way_out: the sentence at its end that says what to do.
    """
    try:
        before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except ValueError:
        before = {}
    differing = [name for name in settings if not isinstance(before, dict) or before.get(name) != settings[name]]
    if differing:
        known = before if isinstance(before, dict) else {}
        texts = [
            f"{name} was {_short(known[name])} and is {_short(settings[name])}" for name in differing if name in known
        ]
        missing = [name for name in differing if name not in known]
        texts += [f"{SETTINGS} has no {', '.join(missing)}"] if missing else []
        raise OtherSettings(f"{folder} holds {what} of other settings: {'; '.join(texts)}. {way_out}")


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Makes the folder, and writes into it the settings that its results are made with."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / SETTINGS, (json.dumps(settings, indent=2) + "\n").encode())


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
