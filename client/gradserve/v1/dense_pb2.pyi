from gradserve.v1 import common_pb2 as _common_pb2
from gradserve.v1 import progress_pb2 as _progress_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DenseRequest(_message.Message):
    __slots__ = ["model", "image", "targets", "size", "tile", "options"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    TILE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: _common_pb2.Image
    targets: _containers.RepeatedCompositeFieldContainer[_common_pb2.Target]
    size: _progress_pb2.Size
    tile: int
    options: _common_pb2.RequestOptions
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[_common_pb2.Image, _Mapping]] = ..., targets: _Optional[_Iterable[_Union[_common_pb2.Target, _Mapping]]] = ..., size: _Optional[_Union[_progress_pb2.Size, _Mapping]] = ..., tile: _Optional[int] = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ...) -> None: ...

class DenseResponse(_message.Message):
    __slots__ = ["maps", "logits", "probabilities", "stride", "offset", "height", "width", "tiles", "top", "region", "provenance"]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    TILES_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    maps: _containers.RepeatedCompositeFieldContainer[DenseMap]
    logits: _common_pb2.Tensor
    probabilities: _common_pb2.Tensor
    stride: int
    offset: float
    height: int
    width: int
    tiles: int
    top: _containers.RepeatedCompositeFieldContainer[_common_pb2.Score]
    region: _common_pb2.Region
    provenance: _common_pb2.Provenance
    def __init__(self, maps: _Optional[_Iterable[_Union[DenseMap, _Mapping]]] = ..., logits: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., probabilities: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., stride: _Optional[int] = ..., offset: _Optional[float] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., tiles: _Optional[int] = ..., top: _Optional[_Iterable[_Union[_common_pb2.Score, _Mapping]]] = ..., region: _Optional[_Union[_common_pb2.Region, _Mapping]] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...

class DenseMap(_message.Message):
    __slots__ = ["score", "largest", "y", "x", "png"]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    LARGEST_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    score: _common_pb2.Score
    largest: float
    y: int
    x: int
    png: bytes
    def __init__(self, score: _Optional[_Union[_common_pb2.Score, _Mapping]] = ..., largest: _Optional[float] = ..., y: _Optional[int] = ..., x: _Optional[int] = ..., png: _Optional[bytes] = ...) -> None: ...
