"""Tables of TOML files: read, written, and what is wrong with them in words."""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

MAX_SHOWN_CHARACTERS = 60  # Most characters of a value in an error text.
EXPECTED = {  # What a key's value must be; pydantic would have a text for each type that it might be.
    "arguments": "must be a number or text",
    "tokens": "must be { leading = N, trailing = N }",
    "mean": "must be a list, such as [0.5, 0.5, 0.5]",
    "std": "must be a list, such as [0.5, 0.5, 0.5]",
    "labels": "must be the name of a file, or a list of names",
    "index": "must be the name of a folder",
    "pictures": "must be the name of a folder",
    "precisions": 'must be a list, such as ["exact", "fast"]',
    "rows": "must be such as { exact = 8, fast = 16 }",
    "auto": 'must be such as { maximize = "fast" }',
    "resize": "must be a number of pixels from 1 to 4096, or [height, width] of such",
    "name": "may have letters, digits and any of . _ - alone, and begins with a letter or digit",
}


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file. Raises OSError, and ValueError with the file's name."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def toml_value(value: object) -> str:
    """A number, a text, a list or a table of these on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{toml_value(key)} = {toml_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # TOML spells inf and nan in the same way.
    return json.dumps(value, ensure_ascii=False)


def mistakes(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """What is wrong with a table, a line for each value. `where`: the file and the table."""
    lines = dict.fromkeys(_mistake(each, model) for each in error.errors())
    return "\n".join(f"{where}: {line}" for line in lines)


def _mistake(error: ErrorDetails, model: type[BaseModel]) -> str:
    keys = [str(key) for key in error["loc"]]
    if error["type"] == "extra_forbidden":
        names = _fields(model, keys[:-1])
        return f"unknown key {'.'.join(keys)}{nearest(keys[-1], names)}"
    if error["type"] in ("model_type", "dict_type") and keys[:1] != ["tokens"]:
        return f"{'.'.join(keys) or 'this'} must be a table"
    if not keys or error["type"] == "value_error":
        return ".".join(keys) + (": " if keys else "") + error["msg"].removeprefix("Value error, ")
    if keys[0] in EXPECTED and not _of_a_part(error, keys):
        inside = keys[0] == "arguments" and len(keys) > 1
        return f"{'.'.join(keys[:2]) if inside else keys[0]} {EXPECTED[keys[0]]}"
    value = error["input"]
    was = "" if isinstance(value, Mapping) else f", was {repr(value)[:MAX_SHOWN_CHARACTERS]}"
    return f"{'.'.join(keys)} {error['msg'].replace('Input should be', 'must be')}{was}"


def _of_a_part(error: ErrorDetails, keys: list[str]) -> bool:
    """Whether it is a number within a table or list that is out of its range, or not finite."""
    inside = len(keys) > 1 and keys[0] != "resize"  # That may be a number or a list, and pydantic tries both.
    return inside and error["type"] in ("greater_than_equal", "less_than_equal", "finite_number")


def _fields(model: type[BaseModel], keys: Iterable[str]) -> list[str]:
    """The names that a table may have, or one within it."""
    for key in keys:
        kinds = [model.model_fields[key].annotation] if key in model.model_fields else []
        kinds += [part for kind in kinds for part in getattr(kind, "__args__", ())]
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """A hint to what may have been meant, or nothing."""
    near = difflib.get_close_matches(name, list(names), 3, cutoff)
    return f"; nearest: {', '.join(near)}" if near else ""
