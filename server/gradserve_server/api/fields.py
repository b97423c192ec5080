"""Between proto messages and methods' keyword arguments, by name, so that no list of parameters is kept twice."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf.message import Message
from pydantic import ValidationError

from ..methods.parameters import bind, model_of
from .errors import Violations, shown


def to_dict(message: Message) -> dict[str, Any]:
    """The fields that are set, enums as the lower-case names that methods use: REDUCE_MAX -> "max"."""
    values = {}
    for field, value in message.ListFields():
        values[field.name] = enum_name(field.enum_type, value) if field.enum_type else value
    return values


def from_dict(message: Message, values: Mapping[str, Any]) -> None:
    """The opposite of `to_dict`: writes resolved parameters into a message."""
    for name, value in values.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        setattr(message, name, enum_value(field.enum_type, value) if field.enum_type else value)


def _prefix(enum: Any) -> str:
    return str(enum.values_by_number[0].name).removesuffix("UNSPECIFIED")


def enum_name(enum: Any, value: int) -> str:
    """The lower-case name of an enum's value: REDUCE_MAX -> "max"; the number itself where it has none."""
    named = enum.values_by_number.get(value)
    return str(named.name).removeprefix(_prefix(enum)).lower() if named else str(value)


def enum_value(enum: Any, name: str) -> Any:
    """The opposite of `enum_name`."""
    return enum.values_by_name[_prefix(enum) + name.upper()].number


def choice(enum: Any, value: int, path: str, violations: Violations, *, required: bool = False) -> str | None:
    """The lower-case name of an enum's value, or None for 0, which leaves the choice to the default.

    A number that has no name is a violation, and so is 0 where the choice is required.
    """
    if value not in enum.values_by_number or (required and not value):
        names = ", ".join(each.name for each in enum.values if not each.name.endswith("_UNSPECIFIED"))
        violations.add(path, f"must be one of {names}, was {value}", for_every_model=True)
        return None
    return enum_name(enum, value) if value else None


def parse_fields(
    method: Callable[..., Any],
    message: Message,
    path: str,
    violations: Violations,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any] | None:
    """A method's parameters: the fields that are set, else those of `defaults`, else the method's own defaults.

    Faults become violations of fields below `path`; the result is then None.
    """
    return check_values(method, {**defaults, **to_dict(message)}, violations, f"{path}.")


def check_values(
    method: Callable[..., Any], values: Mapping[str, Any], violations: Violations, prefix: str = ""
) -> dict[str, Any] | None:
    """A method's parameters: the given values, else the method's defaults.

    Faults become violations of the fields `prefix` + name; the result is then None.
    """
    try:
        return bind(method, values)
    except ValidationError as error:
        for fault in error.errors():
            name = str(fault["loc"][0])
            was = "was not set" if fault["type"] == "missing" else f"was {shown(fault['input'])}"
            violations.add(f"{prefix}{name}", f"must be {allowed(method, name)}, {was}", for_every_model=True)
        return None


def allowed(method: Callable[..., Any], name: str) -> str:
    """What a parameter may be, in words: "an integer from 1 to 2000", "one of mean, variance, square"."""
    schema = model_of(method).model_json_schema()["properties"][name]
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    kind = {"integer": "an integer", "number": "a number", "boolean": "true or false"}.get(schema["type"], "text")
    words = [kind]
    if "minimum" in schema:
        words.append(f"from {schema['minimum']:g}")
    if "exclusiveMinimum" in schema:
        words.append(f"above {schema['exclusiveMinimum']:g} and up")
    if "maximum" in schema:
        words.append(f"to {schema['maximum']:g}")
    if "exclusiveMaximum" in schema:
        words.append(f"to below {schema['exclusiveMaximum']:g}")
    if "maxLength" in schema:
        words.append(f"of at most {schema['maxLength']} characters")
    return " ".join(words)
