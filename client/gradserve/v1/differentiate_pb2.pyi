from gradserve.v1 import common_pb2 as _common_pb2
from gradserve.v1 import maximize_pb2 as _maximize_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BackwardRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    BACKWARD_RULE_UNSPECIFIED: _ClassVar[BackwardRule]
    BACKWARD_RULE_PLAIN: _ClassVar[BackwardRule]
    BACKWARD_RULE_GUIDED: _ClassVar[BackwardRule]
    BACKWARD_RULE_DECONVNET: _ClassVar[BackwardRule]
    BACKWARD_RULE_LRP_Z_PLUS: _ClassVar[BackwardRule]
    BACKWARD_RULE_LRP_GAMMA: _ClassVar[BackwardRule]
    BACKWARD_RULE_LRP_EPSILON: _ClassVar[BackwardRule]

class GradientFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    GRADIENT_FORMAT_UNSPECIFIED: _ClassVar[GradientFormat]
    GRADIENT_FORMAT_FLOAT32: _ClassVar[GradientFormat]
    GRADIENT_FORMAT_BFLOAT16: _ClassVar[GradientFormat]
    GRADIENT_FORMAT_FLOAT16: _ClassVar[GradientFormat]
BACKWARD_RULE_UNSPECIFIED: BackwardRule
BACKWARD_RULE_PLAIN: BackwardRule
BACKWARD_RULE_GUIDED: BackwardRule
BACKWARD_RULE_DECONVNET: BackwardRule
BACKWARD_RULE_LRP_Z_PLUS: BackwardRule
BACKWARD_RULE_LRP_GAMMA: BackwardRule
BACKWARD_RULE_LRP_EPSILON: BackwardRule
GRADIENT_FORMAT_UNSPECIFIED: GradientFormat
GRADIENT_FORMAT_FLOAT32: GradientFormat
GRADIENT_FORMAT_BFLOAT16: GradientFormat
GRADIENT_FORMAT_FLOAT16: GradientFormat

class DifferentiateRequest(_message.Message):
    __slots__ = ["model", "images", "preprocess", "goals", "rule", "layer", "format", "forward_only", "options"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    GOALS_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    FORWARD_ONLY_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    images: _containers.RepeatedCompositeFieldContainer[_common_pb2.Image]
    preprocess: _common_pb2.Preprocess
    goals: _containers.RepeatedCompositeFieldContainer[_maximize_pb2.Goal]
    rule: BackwardRule
    layer: str
    format: GradientFormat
    forward_only: bool
    options: _common_pb2.RequestOptions
    def __init__(self, model: _Optional[str] = ..., images: _Optional[_Iterable[_Union[_common_pb2.Image, _Mapping]]] = ..., preprocess: _Optional[_Union[_common_pb2.Preprocess, str]] = ..., goals: _Optional[_Iterable[_Union[_maximize_pb2.Goal, _Mapping]]] = ..., rule: _Optional[_Union[BackwardRule, str]] = ..., layer: _Optional[str] = ..., format: _Optional[_Union[GradientFormat, str]] = ..., forward_only: bool = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ...) -> None: ...

class DifferentiateResponse(_message.Message):
    __slots__ = ["values", "logits", "gradient", "scales", "regions", "provenance"]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    SCALES_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    logits: _common_pb2.Tensor
    gradient: _common_pb2.Tensor
    scales: _containers.RepeatedScalarFieldContainer[float]
    regions: _containers.RepeatedCompositeFieldContainer[_common_pb2.Region]
    provenance: _common_pb2.Provenance
    def __init__(self, values: _Optional[_Iterable[float]] = ..., logits: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., gradient: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., scales: _Optional[_Iterable[float]] = ..., regions: _Optional[_Iterable[_Union[_common_pb2.Region, _Mapping]]] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...
