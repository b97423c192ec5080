"""What is asked under load: entries with weights, given by a TOML file or by options of the command line."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradserve.messages import fields
from gradserve.messages.explain import EXPLAIN_METHOD

RPCS = ("predict", "explain", "attack", "certify", "maximize", "stylize", "influence", "embed", "differentiate")


@dataclass(frozen=True)
class MixEntry:
    """One kind of request, and how often it is sent.

    The parameters are those of the client's method of the RPC's name, those of the explanation or attack among them.
    The weight is a share of all requests, relative to the others'. The deadline is in seconds; None: the command's.
    """

    rpc: str
    weight: float = 1.0
    model: str = ""
    method: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    priority: str = "interactive"
    deadline: float | None = None

    @property
    def name(self) -> str:
        """How figures name it: "explain grad_cam (resnet18)"."""
        return f"{self.rpc} {self.method}".rstrip() + (f" ({self.model})" if self.model else "")


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _text(value: Any) -> bool:
    return isinstance(value, str)


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "rpc": (f"one of {', '.join(RPCS)}", RPCS.__contains__),
    "weight": ("a number above 0", _positive),
    "model": ("a text", _text),
    "method": ("a text", _text),
    "parameters": ("a table", lambda value: isinstance(value, dict)),
    "priority": ("a text", _text),
    "deadline": ("a number of seconds above 0", _positive),
}


def read_mix(path: Path) -> list[MixEntry]:
    """The entries of a file, one for each table `[[requests]]`; ValueError names the file, the table and the field."""
    try:
        document = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    for name in document:
        if name != "requests":
            raise ValueError(f"{path}: {name}: a mix has nothing but tables [[requests]]")
    tables = document.get("requests")
    if not isinstance(tables, list) or not tables:
        raise ValueError(f"{path}: requests: a mix has a table [[requests]] for each kind of request")
    entries = []
    for place, values in enumerate(tables):
        try:
            entries.append(_entry(values))
        except ValueError as error:
            raise ValueError(f"{path}: requests[{place}]{error}") from None
    return entries


def _entry(values: Any) -> MixEntry:
    if not isinstance(values, dict):
        raise ValueError(f": must be a table, not {values!r}")
    for name in ("rpc", *values):
        if name not in _FIELDS:
            raise ValueError(f".{name}: {fields.unknown('field', name, _FIELDS)}")
        expected, allowed = _FIELDS[name]
        if not allowed(values.get(name)):
            raise ValueError(f".{name}: must be {expected}, not {values.get(name)!r}")
    for name in _FIELDS.keys() & values.get("parameters", {}).keys():
        raise ValueError(f".parameters: {name} has a field of its own")
    return MixEntry(**values)


def explanations(texts: Sequence[str], model: str) -> list[MixEntry]:
    """The mix of options like "predict" or "grad_cam=2": Predict or a method of Explain, and its share."""
    shares: dict[str, float] = {}
    methods = ["predict", *fields.names(EXPLAIN_METHOD)]
    for text in texts:
        name, _, share = text.partition("=")
        if name not in methods:
            raise fields.unknown("method", name, methods)
        try:
            shares[name] = float(share or 1)
        except ValueError:
            raise ValueError(f"--method {text}: the share must be a number, not {share!r}") from None
        if not shares[name] > 0:
            raise ValueError(f"--method {text}: the share must be above 0")
    return [
        MixEntry("predict", share, model) if name == "predict" else MixEntry("explain", share, model, name)
        for name, share in shares.items()
    ]
