from gradserve.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Head(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    HEAD_UNSPECIFIED: _ClassVar[Head]
    HEAD_SOFTMAX: _ClassVar[Head]
    HEAD_BINARY: _ClassVar[Head]
    HEAD_MULTILABEL: _ClassVar[Head]
HEAD_UNSPECIFIED: Head
HEAD_SOFTMAX: Head
HEAD_BINARY: Head
HEAD_MULTILABEL: Head

class ListModelsRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ["models", "unavailable", "default_model"]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_MODEL_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    unavailable: _containers.RepeatedCompositeFieldContainer[UnavailableModel]
    default_model: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., unavailable: _Optional[_Iterable[_Union[UnavailableModel, _Mapping]]] = ..., default_model: _Optional[str] = ...) -> None: ...

class UnavailableModel(_message.Message):
    __slots__ = ["name", "reason"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ["name"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ["name", "builder", "weights_digest", "classes", "input_height", "input_width", "any_size", "mean", "std", "precisions", "default_eps", "grad_cam_layer", "gflop", "methods", "layers", "notes", "head"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BUILDER_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    INPUT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    INPUT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    ANY_SIZE_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    PRECISIONS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_EPS_FIELD_NUMBER: _ClassVar[int]
    GRAD_CAM_LAYER_FIELD_NUMBER: _ClassVar[int]
    GFLOP_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    name: str
    builder: str
    weights_digest: str
    classes: _containers.RepeatedScalarFieldContainer[str]
    input_height: int
    input_width: int
    any_size: bool
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    precisions: _containers.RepeatedScalarFieldContainer[_common_pb2.Precision]
    default_eps: float
    grad_cam_layer: str
    gflop: float
    methods: _containers.RepeatedCompositeFieldContainer[Applicability]
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    notes: _containers.RepeatedScalarFieldContainer[str]
    head: Head
    def __init__(self, name: _Optional[str] = ..., builder: _Optional[str] = ..., weights_digest: _Optional[str] = ..., classes: _Optional[_Iterable[str]] = ..., input_height: _Optional[int] = ..., input_width: _Optional[int] = ..., any_size: bool = ..., mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., precisions: _Optional[_Iterable[_Union[_common_pb2.Precision, str]]] = ..., default_eps: _Optional[float] = ..., grad_cam_layer: _Optional[str] = ..., gflop: _Optional[float] = ..., methods: _Optional[_Iterable[_Union[Applicability, _Mapping]]] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ..., head: _Optional[_Union[Head, str]] = ...) -> None: ...

class Applicability(_message.Message):
    __slots__ = ["method", "applies", "reason"]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    APPLIES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    method: str
    applies: bool
    reason: str
    def __init__(self, method: _Optional[str] = ..., applies: bool = ..., reason: _Optional[str] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ["name", "kind", "channels", "height", "width"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    channels: int
    height: int
    width: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., channels: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...
