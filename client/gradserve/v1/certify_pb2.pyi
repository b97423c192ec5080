from gradserve.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CertifyRequest(_message.Message):
    __slots__ = ["model", "image", "preprocess", "sigma", "selection_samples", "samples", "alpha", "options"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    SIGMA_FIELD_NUMBER: _ClassVar[int]
    SELECTION_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: _common_pb2.Image
    preprocess: _common_pb2.Preprocess
    sigma: float
    selection_samples: int
    samples: int
    alpha: float
    options: _common_pb2.RequestOptions
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[_common_pb2.Image, _Mapping]] = ..., preprocess: _Optional[_Union[_common_pb2.Preprocess, str]] = ..., sigma: _Optional[float] = ..., selection_samples: _Optional[int] = ..., samples: _Optional[int] = ..., alpha: _Optional[float] = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ...) -> None: ...

class CertifyResponse(_message.Message):
    __slots__ = ["candidate", "abstains", "lower_bound", "radius", "plain", "counts", "sigma", "selection_samples", "samples", "alpha", "warnings", "region", "provenance"]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    ABSTAINS_FIELD_NUMBER: _ClassVar[int]
    LOWER_BOUND_FIELD_NUMBER: _ClassVar[int]
    RADIUS_FIELD_NUMBER: _ClassVar[int]
    PLAIN_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SIGMA_FIELD_NUMBER: _ClassVar[int]
    SELECTION_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    candidate: ClassCount
    abstains: bool
    lower_bound: float
    radius: float
    plain: _common_pb2.Score
    counts: _containers.RepeatedCompositeFieldContainer[ClassCount]
    sigma: float
    selection_samples: int
    samples: int
    alpha: float
    warnings: _containers.RepeatedScalarFieldContainer[str]
    region: _common_pb2.Region
    provenance: _common_pb2.Provenance
    def __init__(self, candidate: _Optional[_Union[ClassCount, _Mapping]] = ..., abstains: bool = ..., lower_bound: _Optional[float] = ..., radius: _Optional[float] = ..., plain: _Optional[_Union[_common_pb2.Score, _Mapping]] = ..., counts: _Optional[_Iterable[_Union[ClassCount, _Mapping]]] = ..., sigma: _Optional[float] = ..., selection_samples: _Optional[int] = ..., samples: _Optional[int] = ..., alpha: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ..., region: _Optional[_Union[_common_pb2.Region, _Mapping]] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...

class ClassCount(_message.Message):
    __slots__ = ["class_index", "class_name", "selection_count", "count"]
    CLASS_INDEX_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    SELECTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    class_index: int
    class_name: str
    selection_count: int
    count: int
    def __init__(self, class_index: _Optional[int] = ..., class_name: _Optional[str] = ..., selection_count: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...
