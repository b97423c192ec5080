"""Parameters of methods: the types carry the ranges, the functions' signatures carry the defaults."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

Samples = Annotated[int, Field(ge=1, le=2000)]
MAX_POINTS = 2000
QuadraturePoints = Annotated[int, Field(ge=2, le=MAX_POINTS)]
Unit = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Iterations = Annotated[int, Field(ge=1, le=1000)]
Restarts = Annotated[int, Field(ge=1, le=64)]
StepSize = Annotated[float, Field(gt=0, le=2)]
Rate = Annotated[float, Field(gt=0, le=1000)]
ModelName = Annotated[str, Field(min_length=1, max_length=64)]
LayerName = Annotated[str, Field(max_length=256)]
Reduce = Literal["sum", "max", "signed"]
Baseline = Literal["black", "mean", "blur", "noise"]
Statistic = Literal["mean", "variance", "square"]
GradientShapBaselines = Literal["mixed", "black", "mean", "blur", "noise"]
MaskCount = Annotated[int, Field(ge=2, le=4000)]
MaskCells = Annotated[int, Field(ge=1, le=64)]
KeptShare = Annotated[float, Field(ge=0.01, le=0.99)]
ChoiceCount = Annotated[int, Field(ge=4, le=4000)]
SegmentCount = Annotated[int, Field(ge=2, le=300)]
Compactness = Annotated[float, Field(ge=0.01, le=1000)]
KernelWidth = Annotated[float, Field(ge=0.01, le=100)]
RidgeWeight = Annotated[float, Field(ge=0, le=1e6)]
StepCount = Annotated[int, Field(ge=1, le=4096)]
Every = Annotated[int, Field(ge=0, le=4096)]
OctaveCount = Annotated[int, Field(ge=1, le=16)]
OctaveScale = Annotated[float, Field(gt=1, le=4)]
Weight = Annotated[float, Field(ge=0, le=1e9)]
Spread = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, lt=1)]
Gamma = Annotated[float, Field(ge=0, le=100)]
Degrees = Annotated[float, Field(ge=0, le=180)]
Sigma = Annotated[float, Field(gt=0, le=2)]
NoiseSamples = Annotated[int, Field(ge=1, le=100_000)]
Alpha = Annotated[float, Field(gt=0, lt=0.5)]


@cache
def model_of(method: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model of a method's keyword-only parameters."""
    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(method, eval_str=True).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    model: type[BaseModel] = create_model(method.__name__, __config__=config, **fields)
    return model


def bind(method: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given parameters, checked, and the others' defaults. Raises pydantic.ValidationError with all faults."""
    return model_of(method).model_validate(dict(given)).model_dump()
