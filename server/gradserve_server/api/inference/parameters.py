"""The parameters of a ModelInfer request, which say what is asked of its pictures."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from google.protobuf.message import Message

from gradserve.messages import fields
from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2, predict_pb2

from ..errors import Violations, near, shown
from .v2 import inference_pb2 as v2

MAX_PARAMETERS, MAX_CHARACTERS = 64, 1000  # The most parameters of a request, and the most characters of a text.
MAX_TIMEOUT = 10**15  # Microseconds.
METHODS = explain_pb2.ExplainMethod.DESCRIPTOR.oneofs_by_name["method"].fields
OPTIONS = ("seed", "precision", "priority", "alone", "quick_decode")  # Those of RequestOptions.
KNOWN = ("explain", "target", "timeout", "top_k", "preprocess", *OPTIONS)
Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A ModelInfer request, of which the parameters are read, and the tensors are not."""

    message: v2.ModelInferRequest
    options: pb.RequestOptions = field(default_factory=pb.RequestOptions)
    predict: predict_pb2.PredictRequest = field(default_factory=predict_pb2.PredictRequest)  # Its top_k and preprocess.
    method: explain_pb2.ExplainMethod = field(default_factory=explain_pb2.ExplainMethod)
    targets: list[pb.Target] = field(default_factory=list)
    violations: Violations = field(default_factory=Violations)  # What is wrong with the parameters.

    @property
    def model(self) -> str:
        """The model's name, empty for the default one."""
        return self.message.model_name

    @property
    def rpcs(self) -> list[str]:
        """The RPCs of GradientService that each row becomes: Predict, unless only maps are wanted; Explain for maps."""
        predicts = not self.explains or {each.name for each in self.message.outputs} != {"map"}
        return [*(["Predict"] if predicts else []), *(["Explain"] if self.explains else [])]

    @property
    def explains(self) -> bool:
        """Whether maps are asked for."""
        return "explain" in self.message.parameters


def read(message: v2.ModelInferRequest) -> InferRequest:
    """The request with its parameters read; what is wrong with them is in its violations."""
    request = InferRequest(message)
    if len(message.parameters) > MAX_PARAMETERS:
        text = f"must be at most {MAX_PARAMETERS}, were {len(message.parameters)}"
        request.violations.add("parameters", text)
        return request
    values = {name: _value(parameter) for name, parameter in message.parameters.items()}
    if any(isinstance(value, str) and len(value) > MAX_CHARACTERS for value in values.values()):
        request.violations.add("parameters", f"must each have at most {MAX_CHARACTERS} characters")
        return request
    chosen = _method(request, values.get("explain")) if request.explains else None
    for name, value in values.items():
        if name == "explain":
            continue
        if name in KNOWN:
            _READERS[name](request, name, value)
        elif chosen is not None and name in chosen.DESCRIPTOR.fields_by_name:
            _set(chosen, name, value, request.violations)
        else:
            known = [*KNOWN, *(chosen.DESCRIPTOR.fields_by_name if chosen is not None else ())]
            request.violations.add("parameters", f"there is no parameter {shown(name)}; {near(name, known)}")
    return request


def _value(parameter: v2.InferParameter) -> Value:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _method(request: InferRequest, name: Value) -> Message | None:
    """The message of the parameters of the method of that name; None, with a violation, if there is none."""
    names = [each.name for each in METHODS]
    if name not in names:
        hint = near(name, names) if isinstance(name, str) else f"there are: {', '.join(names)}"
        request.violations.add("parameters.explain", f"there is no method {shown(name)}; {hint}")
        return None
    chosen: Message = getattr(request.method, str(name))
    chosen.SetInParent()
    return chosen


def _target(request: InferRequest, name: str, value: Value) -> None:
    """A class by its name or its index."""
    if not request.explains:
        request.violations.add("parameters.target", "says what a map is of, so that it needs the parameter explain too")
    if isinstance(value, str):
        request.targets.append(pb.Target(class_name=value))
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32:
        request.targets.append(pb.Target(class_index=value))
    else:
        request.violations.add("parameters.target", f"must be a class's name or index, was {shown(value)}")


def _timeout(request: InferRequest, name: str, value: Value) -> None:
    """Microseconds, as Triton has it."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_TIMEOUT:
        request.options.time_budget.FromTimedelta(timedelta(microseconds=value))
    else:
        text = f"must be a whole number of microseconds from 1 to {MAX_TIMEOUT}, was {shown(value)}"
        request.violations.add("parameters.timeout", text)


def _option(request: InferRequest, name: str, value: Value) -> None:
    _set(request.options if name in OPTIONS else request.predict, name, value, request.violations)


_READERS: dict[str, Callable[[InferRequest, str, Value], None]] = {
    **dict.fromkeys((*OPTIONS, "top_k", "preprocess"), _option),
    "target": _target,
    "timeout": _timeout,
}


def _set(message: Any, name: str, value: Any, violations: Violations) -> None:
    """Sets a field to a parameter's value, or adds a violation. A text may stand for a number or true and false."""
    add = partial(violations.add, f"parameters.{name}")
    try:
        if isinstance(value, str):
            value = fields.parse_setting(message.DESCRIPTOR, "parameters", name, value)
        fields.fill_fields(message, "parameters", {name: value})
    except ValueError as error:
        add(str(error).removeprefix(f"parameters.{name}").lstrip(": "))
