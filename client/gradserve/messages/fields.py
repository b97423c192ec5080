"""Names of methods, parameters and choices, read from the contract's own descriptors: no list is kept twice."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from gradserve.parameters.method import ParameterValue

_KINDS: dict[int, tuple[str, Any]] = {
    FieldDescriptor.CPPTYPE_BOOL: ("true or false", bool),
    FieldDescriptor.CPPTYPE_DOUBLE: ("a number", Real),
    FieldDescriptor.CPPTYPE_FLOAT: ("a number", Real),
    FieldDescriptor.CPPTYPE_INT32: ("a whole number", Integral),
    FieldDescriptor.CPPTYPE_INT64: ("a whole number", Integral),
    FieldDescriptor.CPPTYPE_UINT32: ("a whole number", Integral),
    FieldDescriptor.CPPTYPE_UINT64: ("a whole number", Integral),
    FieldDescriptor.CPPTYPE_STRING: ("a text", str),
}
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def names(method: Descriptor) -> list[str]:
    """The methods that a message with a oneof `method` allows."""
    return [field.name for field in method.oneofs_by_name["method"].fields]


def fill(method: Any, name: str, parameters: Mapping[str, ParameterValue]) -> None:
    """Choose a method in the oneof of a message and set its parameters."""
    _fields(method.DESCRIPTOR, name)
    fill_fields(getattr(method, name), name, parameters)


def fill_fields(chosen: Any, name: str, parameters: Mapping[str, ParameterValue]) -> None:
    """Set parameters in the message of that name, which becomes present."""
    fields = {field.name: field for field in chosen.DESCRIPTOR.fields}
    chosen.SetInParent()
    for key, value in parameters.items():
        field = _named(fields, key, f"parameter of {name}")
        try:
            setattr(chosen, key, _value(field, value))
        except (TypeError, ValueError) as failure:
            raise ValueError(f"{name}.{key}: {failure}") from None


def resolved(parameters: Message) -> dict[str, ParameterValue]:
    """The parameters that are set, choices by their lower-case names."""
    return {
        field.name: choice_name(field.enum_type, value) if field.enum_type else value
        for field, value in parameters.ListFields()
    }


def parse(method: Descriptor, name: str, key: str, text: str) -> ParameterValue:
    """The value that a text of the command line means for one parameter of one method."""
    return read(_named(_fields(method, name), key, f"parameter of {name}"), f"{name}.{key}", text)


def parse_setting(message: Descriptor, name: str, key: str, text: str) -> ParameterValue:
    """The value that a text of the command line means for one field of the message of that name."""
    fields = {field.name: field for field in message.fields}
    return read(_named(fields, key, f"parameter of {name}"), f"{name}.{key}", text)


def read(field: FieldDescriptor, path: str, text: str) -> ParameterValue:
    """The value that a text of the command line means for a field."""
    kind, python_type = _KINDS.get(field.cpp_type, ("", None))
    try:
        if python_type is bool:
            return _BOOLEANS[text.lower()]
        if python_type is Real:
            return number(text)
        if python_type is Integral:
            return int(text)
    except (KeyError, ValueError, ZeroDivisionError):
        raise ValueError(f"{path} must be {kind}, not {text!r}") from None
    return text


def choice(enum: EnumDescriptor, name: str) -> int:
    """The number of an enum's value given its lower-case name: "variance" of SmoothGradStatistic is 2."""
    numbers = choices(enum)
    if not isinstance(name, str) or name not in numbers:
        raise ValueError(f"must be one of {', '.join(sorted(numbers))}; not {name!r}")
    return numbers[name]


def choice_name(enum: EnumDescriptor, number: int) -> str:
    """The lower-case name of an enum's value."""
    value = enum.values_by_number.get(number)
    return value.name[len(_prefix(enum)) :].lower() if value else str(number)


def unknown(what: str, name: object, allowed: Iterable[str]) -> ValueError:
    """The error for a name that is not among the allowed ones, with the nearest of them."""
    allowed = sorted(allowed)
    nearest = get_close_matches(str(name), allowed, n=3, cutoff=0.5) or allowed
    return ValueError(f"no {what} {name!r}; " + (f"nearest: {', '.join(nearest)}" if nearest else "there are none"))


def _fields(method: Descriptor, name: str) -> Mapping[str, FieldDescriptor]:
    methods = {field.name: field for field in method.oneofs_by_name["method"].fields}
    message = _named(methods, name, "method").message_type
    assert message is not None
    return {field.name: field for field in message.fields}


def _named(fields: Mapping[str, FieldDescriptor], name: str, what: str) -> FieldDescriptor:
    if name not in fields:
        raise unknown(what, name, fields)
    return fields[name]


def _value(field: FieldDescriptor, value: Any) -> ParameterValue:
    if field.enum_type:
        return choice(field.enum_type, value)
    kind, python_type = _KINDS[field.cpp_type]
    if not isinstance(value, python_type) or (isinstance(value, bool) and python_type is not bool):
        raise TypeError(f"must be {kind}, not {value!r}")
    return cast(ParameterValue, value)


def number(text: str) -> float:
    """A number or a fraction: "8/255"."""
    over, _, under = text.partition("/")
    return float(over) / float(under) if under else float(over)


def _prefix(enum: EnumDescriptor) -> str:
    names = [value.name for value in enum.values]
    first, last = min(names), max(names)  # What the first and the last name share, all names share.
    shared = next((place for place, letter in enumerate(first) if not last.startswith(first[: place + 1])), len(first))
    return first[: first.rfind("_", 0, shared) + 1]


def choices(enum: EnumDescriptor) -> dict[str, int]:
    """An enum's lower-case names and their numbers, in order."""
    numbers = {choice_name(enum, value.number): value.number for value in enum.values}
    return {name: number for name, number in numbers.items() if name != "unspecified"}
