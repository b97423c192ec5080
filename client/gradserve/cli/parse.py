"""From the command line's texts to methods, targets and settings."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradserve.arguments import (
    AttackTargetLike,
    Contrast,
    Direction,
    Pick,
    Rank,
    RegionLike,
    Similarity,
    TargetLike,
    Unit,
)
from gradserve.messages import fields, vectors
from gradserve.messages.attack import DEFENCE, EOT
from gradserve.messages.explain import EXPLAIN_METHOD
from gradserve.parameters.method import Method, ParameterValue

TARGET = (
    "A class's index or name, rank:2, unit:LAYER:CHANNEL or unit:LAYER:CHANNEL:Y,X; sums and differences of those, "
    "'tabby - tiger cat', 'rank:1 - 0.5 * rank:2', 'tabby - top:5' (the others of the top 5); "
    "like:PHOTO or like:PHOTO@LAYER, how alike another photo is; direction:NAME, one that is kept, or "
    "direction:FILE@LAYER, one in a file"
)
REGION = (
    "For networks that give a score for each position, as for segmentation: where the target's scores are summed, "
    "box:x0,y0,x1,y1 in pixels of the photo, or a mask's file, white inside"
)
_LIKE_BOX = re.compile(r"(?i)(?:box)?[\s\d.,;:x=()\[\]+-]*")  # Numbers in some other form than that of a box.
_TERMS = re.compile(r" ([+-]) ")  # Blanks around the sign, since names of classes have hyphens.
_WEIGHT = re.compile(r"([\d.]+(?:/[\d.]+)?) ?\* ?")


def methods(names: Sequence[str], texts: Sequence[str], contract: Any = EXPLAIN_METHOD) -> list[Method]:
    """The methods with their parameters: "samples=25", or "smooth_grad.samples=25" if there are several methods."""
    chosen: dict[str, dict[str, ParameterValue]] = {name: {} for name in names}
    for name in chosen:
        if name not in fields.names(contract):
            raise fields.unknown("method", name, fields.names(contract))
    for text in texts:
        path, equals, value = text.partition("=")
        method, _, key = path.rpartition(".")
        if not equals:
            raise ValueError(f"--param {text}: write NAME=VALUE or METHOD.NAME=VALUE")
        if not method and len(chosen) > 1:
            raise ValueError(f"--param {text}: there are several methods; write METHOD.{text}")
        method = method or next(iter(chosen))
        if method not in chosen:
            raise fields.unknown("method among those asked for:", method, chosen)
        chosen[method][key] = fields.parse(contract, method, key, value)
    return [Method.named(name, **values) for name, values in chosen.items()]


def defence(text: str) -> Method:
    """A defence with its parameters: "jpeg", or "jpeg:quality=50"."""
    name, _, settings = text.partition(":")
    return methods([name], settings.split(",") if settings else [], DEFENCE)[0]


def attack_target(text: str) -> AttackTargetLike:
    """A class's index or name, or "runner-up", "least-likely" or "random"."""
    pick = text.replace("-", "_").lower()
    if pick in list(Pick):
        return Pick(pick)
    return int(text) if text.isdecimal() else text


def label(text: str) -> int | str:
    """A class's index or name."""
    return int(text) if text.isdecimal() else text


def changes(text: str) -> dict[str, ParameterValue]:
    """The settings of eot: "samples=16,rotation=5", or "default"."""
    if text == "default":
        return {}
    settings: dict[str, ParameterValue] = {}
    for setting in text.split(","):
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--eot {text}: write NAME=VALUE,NAME=VALUE or default")
        settings[key] = fields.parse_setting(EOT, "eot", key, value)
    return settings


def settings_of(message: Any) -> str:
    """The names of a message's settings, for people."""
    return ", ".join(sorted(field.name for field in message.fields))


def settings(message: Any, texts: Sequence[str], steps: int | None) -> dict[str, Any]:
    """The settings that were given as NAME=VALUE, read as their types; `steps` has an option of its own."""
    values: dict[str, Any] = {} if steps is None else {"steps": steps}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--param {text}: write NAME=VALUE, NAME one of {settings_of(message)}")
        values[name] = fields.parse_setting(message, "settings", name, value)
    return values


def region(text: str | None, option: str = "--region") -> RegionLike | None:
    """What an option names: "box:x0,y0,x1,y1" or the file of a mask."""
    if text is None:
        return None
    kind, _, rest = text.partition(":")
    if kind == "box":
        try:
            x0, y0, x1, y1 = map(float, rest.split(","))
        except ValueError:
            raise ValueError(f"{option} {text}: {_right_region(text, option)}") from None
        return x0, y0, x1, y1
    if not Path(text).is_file():
        raise ValueError(f"{option} {text} is no file; {_right_region(text, option)}")
    return Path(text)


def _right_region(text: str, option: str) -> str:
    """How to write what was probably meant by a region that is neither a box nor a file."""
    kind, _, rest = text.partition(":")
    if kind.lower() == "mask" and rest:
        return f"a mask is its file alone; write {option} {rest}"
    numbers = re.findall(r"[-+]?(?:\d+\.?\d*|\.\d+)", text) if _LIKE_BOX.fullmatch(text) else []
    if len(numbers) == 4:
        return f"write {option} box:{','.join(numbers)}"
    return "write box:x0,y0,x1,y1 in pixels of the photo, or a mask's file"


def target(text: str) -> TargetLike:
    """A target as TARGET has it: a single one, a weighted sum of several, a similarity or a direction."""
    kind, _, rest = text.partition(":")
    if (kind == "box" and _LIKE_BOX.fullmatch(text)) or (kind == "mask" and rest and rest == rest.strip()):
        where = rest if kind == "mask" else text
        raise ValueError(f"--target {text}: the target is a class or the like, and its region is --region {where}")
    if kind == "like":
        path, _, layer = rest.partition("@")
        return Similarity(Path(path), layer)
    if kind == "direction" and rest:
        return _direction(text, rest)
    words = _TERMS.split(text)
    if len(words) == 1 and not _WEIGHT.match(text):
        return _single(text)
    signs, texts = ["+", *words[1::2]], words[::2]
    terms, top = [], None
    for sign, term in zip(signs, texts, strict=True):
        weight = _WEIGHT.match(term)
        name = term[weight.end() :] if weight else term
        if name.startswith("top:"):
            top = _top(text, sign, name, weight)
        else:
            factor = fields.number(weight[1]) if weight else 1.0
            terms.append((_single(name), -factor if sign == "-" else factor))
    return Contrast.sum(*terms, top=top)


def _direction(text: str, rest: str) -> Direction:
    """A direction that is kept by a name, or one of a layer that lies in a file."""
    path, mark, layer = rest.partition("@")
    if not mark and Path(rest).suffix.lower() in vectors.ENDINGS and Path(rest).is_file():
        raise ValueError(f"--target {text}: name the layer of the direction in the file: direction:{rest}@LAYER")
    if not mark:
        return Direction.kept(rest)
    if not (path and layer):
        raise ValueError(f"--target {text}: write direction:NAME or direction:FILE@LAYER")
    return Direction(layer, Path(path))


def _top(text: str, sign: str, name: str, weight: object) -> int:
    """The number in "top:5", which is subtracted as it is."""
    number = name.removeprefix("top:")
    if sign != "-" or weight or not number.isdecimal():
        raise ValueError(f"--target {text}: write TARGET - top:5, the target rather than the others of the top 5")
    return int(number)


def _single(text: str) -> int | str | Rank | Unit:
    """A class's index or name, "rank:2", "unit:LAYER:CHANNEL" or "unit:LAYER:CHANNEL:Y,X"."""
    kind, _, rest = text.partition(":")
    if text.isdecimal():
        return int(text)
    if kind == "rank" and rest.isdecimal():
        return Rank(int(rest))
    if kind == "unit":
        return _unit(text, rest.split(":"))
    return text


def _unit(text: str, parts: list[str]) -> Unit:
    # The parts are taken from the right, since a layer's name may end in the number of its call: "layer1.0.relu:0".
    try:
        place = parts.pop() if "," in parts[-1] else ""
        y, x = map(int, place.split(",")) if place else (None, None)
        *names, channel = parts
        if not names or not names[0]:
            raise ValueError
        return Unit(":".join(names), int(channel), y, x)
    except ValueError:
        raise ValueError(f"--target {text}: write unit:LAYER:CHANNEL or unit:LAYER:CHANNEL:Y,X") from None
