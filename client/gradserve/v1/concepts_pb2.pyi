from google.protobuf import timestamp_pb2 as _timestamp_pb2
from gradserve.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ConceptVerdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    CONCEPT_VERDICT_UNSPECIFIED: _ClassVar[ConceptVerdict]
    CONCEPT_VERDICT_INSIGNIFICANT: _ClassVar[ConceptVerdict]
    CONCEPT_VERDICT_FOR: _ClassVar[ConceptVerdict]
    CONCEPT_VERDICT_AGAINST: _ClassVar[ConceptVerdict]
CONCEPT_VERDICT_UNSPECIFIED: ConceptVerdict
CONCEPT_VERDICT_INSIGNIFICANT: ConceptVerdict
CONCEPT_VERDICT_FOR: ConceptVerdict
CONCEPT_VERDICT_AGAINST: ConceptVerdict

class ConceptsRequest(_message.Message):
    __slots__ = ["model", "layer", "concept_images", "negative_images", "classes", "class_images", "preprocess", "random_directions", "keep_as", "options"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    CONCEPT_IMAGES_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_IMAGES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    CLASS_IMAGES_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    RANDOM_DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    KEEP_AS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    layer: str
    concept_images: _containers.RepeatedCompositeFieldContainer[_common_pb2.Image]
    negative_images: _containers.RepeatedCompositeFieldContainer[_common_pb2.Image]
    classes: _containers.RepeatedCompositeFieldContainer[_common_pb2.Target]
    class_images: _containers.RepeatedCompositeFieldContainer[_common_pb2.Image]
    preprocess: _common_pb2.Preprocess
    random_directions: int
    keep_as: str
    options: _common_pb2.RequestOptions
    def __init__(self, model: _Optional[str] = ..., layer: _Optional[str] = ..., concept_images: _Optional[_Iterable[_Union[_common_pb2.Image, _Mapping]]] = ..., negative_images: _Optional[_Iterable[_Union[_common_pb2.Image, _Mapping]]] = ..., classes: _Optional[_Iterable[_Union[_common_pb2.Target, _Mapping]]] = ..., class_images: _Optional[_Iterable[_Union[_common_pb2.Image, _Mapping]]] = ..., preprocess: _Optional[_Union[_common_pb2.Preprocess, str]] = ..., random_directions: _Optional[int] = ..., keep_as: _Optional[str] = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ...) -> None: ...

class ConceptsResponse(_message.Message):
    __slots__ = ["direction", "accuracy", "classes", "z_threshold", "random_directions", "by_weights", "expires", "warnings", "provenance"]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    Z_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    RANDOM_DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    BY_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    direction: _common_pb2.Direction
    accuracy: float
    classes: _containers.RepeatedCompositeFieldContainer[ClassSensitivity]
    z_threshold: float
    random_directions: int
    by_weights: bool
    expires: _timestamp_pb2.Timestamp
    warnings: _containers.RepeatedScalarFieldContainer[str]
    provenance: _common_pb2.Provenance
    def __init__(self, direction: _Optional[_Union[_common_pb2.Direction, _Mapping]] = ..., accuracy: _Optional[float] = ..., classes: _Optional[_Iterable[_Union[ClassSensitivity, _Mapping]]] = ..., z_threshold: _Optional[float] = ..., random_directions: _Optional[int] = ..., by_weights: bool = ..., expires: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...

class ClassSensitivity(_message.Message):
    __slots__ = ["target", "name", "derivative", "z", "rank", "verdict"]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DERIVATIVE_FIELD_NUMBER: _ClassVar[int]
    Z_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    target: _common_pb2.Target
    name: str
    derivative: float
    z: float
    rank: int
    verdict: ConceptVerdict
    def __init__(self, target: _Optional[_Union[_common_pb2.Target, _Mapping]] = ..., name: _Optional[str] = ..., derivative: _Optional[float] = ..., z: _Optional[float] = ..., rank: _Optional[int] = ..., verdict: _Optional[_Union[ConceptVerdict, str]] = ...) -> None: ...

class ListDirectionsRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class ListDirectionsResponse(_message.Message):
    __slots__ = ["directions"]
    DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    directions: _containers.RepeatedCompositeFieldContainer[KeptDirection]
    def __init__(self, directions: _Optional[_Iterable[_Union[KeptDirection, _Mapping]]] = ...) -> None: ...

class KeptDirection(_message.Message):
    __slots__ = ["name", "model", "weights_digest", "layer", "channels", "expires"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    weights_digest: str
    layer: str
    channels: int
    expires: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., weights_digest: _Optional[str] = ..., layer: _Optional[str] = ..., channels: _Optional[int] = ..., expires: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class DeleteDirectionRequest(_message.Message):
    __slots__ = ["name"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteDirectionResponse(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...
