from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    DTYPE_UINT8: _ClassVar[DType]
    DTYPE_FLOAT32: _ClassVar[DType]
    DTYPE_FLOAT16: _ClassVar[DType]
    DTYPE_BFLOAT16: _ClassVar[DType]

class Preprocess(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    PREPROCESS_UNSPECIFIED: _ClassVar[Preprocess]
    PREPROCESS_MODEL_DEFAULT: _ClassVar[Preprocess]
    PREPROCESS_WHOLE_IMAGE: _ClassVar[Preprocess]
    PREPROCESS_AS_IS: _ClassVar[Preprocess]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_BATCH: _ClassVar[Priority]

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    PRECISION_AUTO: _ClassVar[Precision]
    PRECISION_EXACT: _ClassVar[Precision]
    PRECISION_BALANCED: _ClassVar[Precision]
    PRECISION_FAST: _ClassVar[Precision]
DTYPE_UNSPECIFIED: DType
DTYPE_UINT8: DType
DTYPE_FLOAT32: DType
DTYPE_FLOAT16: DType
DTYPE_BFLOAT16: DType
PREPROCESS_UNSPECIFIED: Preprocess
PREPROCESS_MODEL_DEFAULT: Preprocess
PREPROCESS_WHOLE_IMAGE: Preprocess
PREPROCESS_AS_IS: Preprocess
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_BATCH: Priority
PRECISION_AUTO: Precision
PRECISION_EXACT: Precision
PRECISION_BALANCED: Precision
PRECISION_FAST: Precision

class Image(_message.Message):
    __slots__ = ["encoded", "tensor"]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    encoded: bytes
    tensor: Tensor
    def __init__(self, encoded: _Optional[bytes] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ["shape", "dtype", "data"]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: DType
    data: bytes
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[_Union[DType, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Region(_message.Message):
    __slots__ = ["x", "y", "width", "height", "image_width", "image_height"]
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    width: float
    height: float
    image_width: int
    image_height: int
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., width: _Optional[float] = ..., height: _Optional[float] = ..., image_width: _Optional[int] = ..., image_height: _Optional[int] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ["class_index", "class_name", "rank", "unit", "contrast", "similarity", "direction", "region"]
    CLASS_INDEX_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    CONTRAST_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    class_index: int
    class_name: str
    rank: int
    unit: Unit
    contrast: Contrast
    similarity: Similarity
    direction: Direction
    region: ScoreRegion
    def __init__(self, class_index: _Optional[int] = ..., class_name: _Optional[str] = ..., rank: _Optional[int] = ..., unit: _Optional[_Union[Unit, _Mapping]] = ..., contrast: _Optional[_Union[Contrast, _Mapping]] = ..., similarity: _Optional[_Union[Similarity, _Mapping]] = ..., direction: _Optional[_Union[Direction, _Mapping]] = ..., region: _Optional[_Union[ScoreRegion, _Mapping]] = ...) -> None: ...

class ScoreRegion(_message.Message):
    __slots__ = ["box", "mask"]
    BOX_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    box: Box
    mask: Image
    def __init__(self, box: _Optional[_Union[Box, _Mapping]] = ..., mask: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ["x0", "y0", "x1", "y1"]
    X0_FIELD_NUMBER: _ClassVar[int]
    Y0_FIELD_NUMBER: _ClassVar[int]
    X1_FIELD_NUMBER: _ClassVar[int]
    Y1_FIELD_NUMBER: _ClassVar[int]
    x0: float
    y0: float
    x1: float
    y1: float
    def __init__(self, x0: _Optional[float] = ..., y0: _Optional[float] = ..., x1: _Optional[float] = ..., y1: _Optional[float] = ...) -> None: ...

class Contrast(_message.Message):
    __slots__ = ["terms", "others_of_top"]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    OTHERS_OF_TOP_FIELD_NUMBER: _ClassVar[int]
    terms: _containers.RepeatedCompositeFieldContainer[WeightedTarget]
    others_of_top: int
    def __init__(self, terms: _Optional[_Iterable[_Union[WeightedTarget, _Mapping]]] = ..., others_of_top: _Optional[int] = ...) -> None: ...

class WeightedTarget(_message.Message):
    __slots__ = ["target", "weight"]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    target: Target
    weight: float
    def __init__(self, target: _Optional[_Union[Target, _Mapping]] = ..., weight: _Optional[float] = ...) -> None: ...

class Similarity(_message.Message):
    __slots__ = ["image", "preprocess", "layer"]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    image: Image
    preprocess: Preprocess
    layer: str
    def __init__(self, image: _Optional[_Union[Image, _Mapping]] = ..., preprocess: _Optional[_Union[Preprocess, str]] = ..., layer: _Optional[str] = ...) -> None: ...

class Direction(_message.Message):
    __slots__ = ["layer", "vector", "name"]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    layer: str
    vector: _containers.RepeatedScalarFieldContainer[float]
    name: str
    def __init__(self, layer: _Optional[str] = ..., vector: _Optional[_Iterable[float]] = ..., name: _Optional[str] = ...) -> None: ...

class Unit(_message.Message):
    __slots__ = ["layer", "channel", "y", "x"]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    layer: str
    channel: int
    y: int
    x: int
    def __init__(self, layer: _Optional[str] = ..., channel: _Optional[int] = ..., y: _Optional[int] = ..., x: _Optional[int] = ...) -> None: ...

class RequestOptions(_message.Message):
    __slots__ = ["priority", "precision", "seed", "time_budget", "allow_partial", "quick_decode", "alone"]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIME_BUDGET_FIELD_NUMBER: _ClassVar[int]
    ALLOW_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    QUICK_DECODE_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    priority: Priority
    precision: Precision
    seed: int
    time_budget: _duration_pb2.Duration
    allow_partial: bool
    quick_decode: bool
    alone: bool
    def __init__(self, priority: _Optional[_Union[Priority, str]] = ..., precision: _Optional[_Union[Precision, str]] = ..., seed: _Optional[int] = ..., time_budget: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., allow_partial: bool = ..., quick_decode: bool = ..., alone: bool = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ["class_index", "class_name", "probability", "logit"]
    CLASS_INDEX_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_FIELD_NUMBER: _ClassVar[int]
    class_index: int
    class_name: str
    probability: float
    logit: float
    def __init__(self, class_index: _Optional[int] = ..., class_name: _Optional[str] = ..., probability: _Optional[float] = ..., logit: _Optional[float] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ["model", "weights_digest", "seed", "precision", "preprocess", "rows", "queue_seconds", "compute_seconds", "server_version", "warnings", "request_id", "quick_decode", "alone"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    QUICK_DECODE_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    model: str
    weights_digest: str
    seed: int
    precision: Precision
    preprocess: Preprocess
    rows: int
    queue_seconds: float
    compute_seconds: float
    server_version: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    quick_decode: bool
    alone: bool
    def __init__(self, model: _Optional[str] = ..., weights_digest: _Optional[str] = ..., seed: _Optional[int] = ..., precision: _Optional[_Union[Precision, str]] = ..., preprocess: _Optional[_Union[Preprocess, str]] = ..., rows: _Optional[int] = ..., queue_seconds: _Optional[float] = ..., compute_seconds: _Optional[float] = ..., server_version: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ..., quick_decode: bool = ..., alone: bool = ...) -> None: ...
