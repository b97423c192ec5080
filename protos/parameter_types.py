"""Generates the types of all names that the client takes; with --check, says whether they are in step.

Into client/gradserve/parameters: for each .proto file the names of its methods and choices as Literals, and a TypedDict
of each method's parameters; and `Method`, whose parameters are those of the method that it names.
"""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

CLIENT = Path(__file__).resolve().parent.parent / "client"
PACKAGE = CLIENT / "gradserve" / "parameters"
HEADER = "# Generated from {source} by protos/parameter_types.py: `make protos` writes it.\n"
# By file of the contract: choices that requests have beside those of methods, messages with a oneof of methods and the
# word that they are known by, and messages of settings.
CHOICES = {
    "common": ["Preprocess", "Precision", "Priority"],
    "explain": ["MapFormat"],
    "attack": ["Norm", "Loss"],
    "influence": ["InfluenceGoal", "SuspectOrder", "Pooling"],
    "differentiate": ["BackwardRule", "GradientFormat"],
    "inspect": ["ChannelOrder"],
    "project": ["ProjectionMethod"],
    "maximize": ["MaximizePreset"],
}
METHODS = {
    "explain": {"ExplainMethod": "Explain"},
    "attack": {"AttackMethod": "Attack", "Defence": "Defence"},
    "influence": {"InfluenceMethod": "Influence"},
}
SETTINGS = {"attack": ["Eot"], "maximize": ["MaximizeSettings"], "stylize": ["StylizeSettings"]}
TYPES = {
    FieldDescriptor.CPPTYPE_BOOL: "bool",
    FieldDescriptor.CPPTYPE_DOUBLE: "float",
    FieldDescriptor.CPPTYPE_FLOAT: "float",
    FieldDescriptor.CPPTYPE_INT32: "int",
    FieldDescriptor.CPPTYPE_UINT32: "int",
    FieldDescriptor.CPPTYPE_UINT64: "int",
    FieldDescriptor.CPPTYPE_STRING: "str",
}
METHOD = '''"""A method with its parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, Unpack, overload

{imports}

ParameterValue = bool | int | float | str


@dataclass(frozen=True, init=False)
class Method:
    """A method with parameters that are not the defaults: `Method("smooth_grad", samples=25)`.

    `Method.named` takes a name that is known only when the program runs.
    """

    name: str
    parameters: Mapping[str, ParameterValue]

{overloads}
    def __init__(self, name: str, /, **parameters: Any) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "parameters", parameters)

    @classmethod
    def named(cls, name: str, /, **parameters: ParameterValue) -> Self:
        """A method by any name, which no type is held against: a wrong one is found by the call that gets it."""
        return cls(name, **parameters)  # type: ignore[call-overload,no-any-return]

    def __repr__(self) -> str:
        parameters = (f"{{name}}={{value!r}}" for name, value in self.parameters.items())
        return f"Method({{', '.join([repr(self.name), *parameters])}})"

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.parameters.items())))
'''
OVERLOAD = """    @overload
    def __init__(self, name: Literal[{names}], /{parameters}) -> None: ...
"""


def words() -> list[str]:
    """The files of the contract that give a module."""
    return list(dict.fromkeys([*CHOICES, *METHODS, *SETTINGS, *(word_of(enum) for enum in _all_enums())]))


def word_of(enum: EnumDescriptor) -> str:
    """The file that has an enum, by its name without ending."""
    return Path(enum.file.name).stem


def methods(word: str) -> Iterator[tuple[str, list[FieldDescriptor]]]:
    """The words of what a file has methods of, each with the fields of its oneof."""
    for message, name in METHODS.get(word, {}).items():
        yield name, list(_message(word, message).oneofs_by_name["method"].fields)


def parameters_of(method: FieldDescriptor) -> list[FieldDescriptor]:
    """The fields of a method's message."""
    assert method.message_type is not None
    return list(method.message_type.fields)


def module(word: str) -> str:
    """The module of one file of the contract."""
    text = [f'"""The names that {word}.proto knows, as types."""\n', "from typing import Literal, TypedDict\n"]
    foreign = sorted({(word_of(enum), enum.name) for enum in _enums(word) if word_of(enum) != word})
    text += [f"from gradserve.parameters.{other} import {name}" for other, name in foreign]
    own = dict.fromkeys([*CHOICES.get(word, []), *(enum.name for enum in _all_enums() if word_of(enum) == word)])
    text += [_literal(name, _choices(_stubs(word).DESCRIPTOR.enum_types_by_name[name])) for name in own]
    for name, several in methods(word):
        for each in several:
            if parameters_of(each):
                text.append(_dict(_class(each), f'Parameters of "{each.name}".', parameters_of(each)))
        text.append(_literal(f"{name}Name", [each.name for each in several]))
        merged = {field.name: field for each in several for field in parameters_of(each)}
        text.append(_dict(f"{name}Parameters", f"Parameters of all methods of {name} together.", merged.values()))
    for name in SETTINGS.get(word, []):
        text.append(_dict(name, f"The fields of {name}.", _message(word, name).fields))
    return HEADER.format(source=f"{word}.proto") + "\n".join(text)


def method_module() -> str:
    """The module of `Method`."""
    overloads, plain = [], []
    for word in METHODS:
        for _, several in methods(word):
            for each in several:
                if parameters_of(each):
                    parameters = f", **parameters: Unpack[{word}.{_class(each)}]"
                    overloads.append(OVERLOAD.format(names=f'"{each.name}"', parameters=parameters))
                else:
                    plain.append(f'"{each.name}"')
    overloads.append(OVERLOAD.format(names=", ".join(plain), parameters=""))
    imports = f"from gradserve.parameters import {', '.join(sorted(METHODS))}"
    return HEADER.format(source="the contract") + METHOD.format(imports=imports, overloads="".join(overloads))


def modules() -> dict[Path, str]:
    """The text of every module."""
    init = HEADER.format(source="the contract") + '"""The names and parameters that requests take, as types."""\n'
    texts = {PACKAGE / "__init__.py": init, PACKAGE / "method.py": method_module()}
    texts |= {PACKAGE / f"{word}.py": module(word) for word in words()}
    return {path: _formatted(path, text) for path, text in texts.items()}


def _stubs(word: str) -> Any:
    return import_module(f"gradserve.v1.{word}_pb2")


def _message(word: str, name: str) -> Descriptor:
    found: Descriptor = _stubs(word).DESCRIPTOR.message_types_by_name[name]
    return found


def _enums(word: str) -> Iterator[EnumDescriptor]:
    """The choices that the parameters and settings of a file have."""
    groups = [parameters_of(each) for _, several in methods(word) for each in several]
    groups += [list(_message(word, name).fields) for name in SETTINGS.get(word, [])]
    yield from (field.enum_type for group in groups for field in group if field.enum_type)


def _all_enums() -> list[EnumDescriptor]:
    return [enum for word in dict.fromkeys([*METHODS, *SETTINGS]) for enum in _enums(word)]


def _choices(enum: EnumDescriptor) -> list[str]:
    from gradserve.messages import fields

    return list(fields.choices(enum))


def _class(method: FieldDescriptor) -> str:
    assert method.message_type is not None
    return f"{method.message_type.name}Parameters"


def _literal(name: str, values: Iterable[str]) -> str:
    return f"{name} = Literal[{', '.join(repr(value) for value in values)}]\n"


def _dict(name: str, text: str, fields: Iterable[FieldDescriptor]) -> str:
    lines = [f"    {each.name}: {each.enum_type.name if each.enum_type else TYPES[each.cpp_type]}" for each in fields]
    return "\n".join([f"class {name}(TypedDict, total=False):", f'    """{text}"""\n', *lines, "\n"])


def _formatted(path: Path, text: str) -> str:
    for command in (["check", "--quiet", "--select=I,F401", "--fix"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, f"--stdin-filename={path}", "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> int:
    """Generates in place, or compares: 0 in step, 1 not."""
    sys.path.insert(0, str(CLIENT))
    fresh = modules()
    if "--check" not in sys.argv:
        PACKAGE.mkdir(exist_ok=True)
        for path, text in fresh.items():
            path.write_text(text)
        print("\n".join(str(path.relative_to(CLIENT)) for path in fresh))
        return 0
    there = {path: path.read_text() for path in PACKAGE.glob("*.py")}
    stale = sorted(path.name for path in fresh.keys() | there.keys() if fresh.get(path) != there.get(path))
    print(f"out of step: {', '.join(stale)}; run `make protos`" if stale else f"{len(fresh)} modules in step")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
