from gradserve.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ProjectionMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    PROJECTION_METHOD_UNSPECIFIED: _ClassVar[ProjectionMethod]
    PROJECTION_METHOD_PCA: _ClassVar[ProjectionMethod]
    PROJECTION_METHOD_TSNE: _ClassVar[ProjectionMethod]
PROJECTION_METHOD_UNSPECIFIED: ProjectionMethod
PROJECTION_METHOD_PCA: ProjectionMethod
PROJECTION_METHOD_TSNE: ProjectionMethod

class ProjectRequest(_message.Message):
    __slots__ = ["model", "layer", "images", "preprocess", "method", "neighbours", "points", "thumbnails", "options"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    THUMBNAILS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    layer: str
    images: _containers.RepeatedCompositeFieldContainer[_common_pb2.Image]
    preprocess: _common_pb2.Preprocess
    method: ProjectionMethod
    neighbours: int
    points: int
    thumbnails: bool
    options: _common_pb2.RequestOptions
    def __init__(self, model: _Optional[str] = ..., layer: _Optional[str] = ..., images: _Optional[_Iterable[_Union[_common_pb2.Image, _Mapping]]] = ..., preprocess: _Optional[_Union[_common_pb2.Preprocess, str]] = ..., method: _Optional[_Union[ProjectionMethod, str]] = ..., neighbours: _Optional[int] = ..., points: _Optional[int] = ..., thumbnails: bool = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ...) -> None: ...

class ProjectResponse(_message.Message):
    __slots__ = ["pictures", "points", "layer", "method", "explained", "layers", "classes", "total", "separability_neighbours", "separability_pictures", "provenance"]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    EXPLAINED_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    SEPARABILITY_NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    SEPARABILITY_PICTURES_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    pictures: _containers.RepeatedCompositeFieldContainer[ProjectedPicture]
    points: _containers.RepeatedCompositeFieldContainer[ProjectedPoint]
    layer: str
    method: ProjectionMethod
    explained: _containers.RepeatedScalarFieldContainer[float]
    layers: _containers.RepeatedCompositeFieldContainer[ProjectedLayer]
    classes: _containers.RepeatedScalarFieldContainer[str]
    total: int
    separability_neighbours: int
    separability_pictures: int
    provenance: _common_pb2.Provenance
    def __init__(self, pictures: _Optional[_Iterable[_Union[ProjectedPicture, _Mapping]]] = ..., points: _Optional[_Iterable[_Union[ProjectedPoint, _Mapping]]] = ..., layer: _Optional[str] = ..., method: _Optional[_Union[ProjectionMethod, str]] = ..., explained: _Optional[_Iterable[float]] = ..., layers: _Optional[_Iterable[_Union[ProjectedLayer, _Mapping]]] = ..., classes: _Optional[_Iterable[str]] = ..., total: _Optional[int] = ..., separability_neighbours: _Optional[int] = ..., separability_pictures: _Optional[int] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...

class ProjectedPicture(_message.Message):
    __slots__ = ["x", "y", "neighbours", "label", "label_name", "agreement", "region"]
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAME_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    neighbours: _containers.RepeatedCompositeFieldContainer[PictureNeighbour]
    label: int
    label_name: str
    agreement: float
    region: _common_pb2.Region
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., neighbours: _Optional[_Iterable[_Union[PictureNeighbour, _Mapping]]] = ..., label: _Optional[int] = ..., label_name: _Optional[str] = ..., agreement: _Optional[float] = ..., region: _Optional[_Union[_common_pb2.Region, _Mapping]] = ...) -> None: ...

class PictureNeighbour(_message.Message):
    __slots__ = ["row", "name", "label", "label_name", "distance", "thumbnail"]
    ROW_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAME_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    row: int
    name: str
    label: int
    label_name: str
    distance: float
    thumbnail: bytes
    def __init__(self, row: _Optional[int] = ..., name: _Optional[str] = ..., label: _Optional[int] = ..., label_name: _Optional[str] = ..., distance: _Optional[float] = ..., thumbnail: _Optional[bytes] = ...) -> None: ...

class ProjectedPoint(_message.Message):
    __slots__ = ["row", "x", "y", "label", "name", "thumbnail"]
    ROW_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    row: int
    x: float
    y: float
    label: int
    name: str
    thumbnail: bytes
    def __init__(self, row: _Optional[int] = ..., x: _Optional[float] = ..., y: _Optional[float] = ..., label: _Optional[int] = ..., name: _Optional[str] = ..., thumbnail: _Optional[bytes] = ...) -> None: ...

class ProjectedLayer(_message.Message):
    __slots__ = ["name", "channels", "accuracy", "shuffled_accuracy", "has_tsne"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    SHUFFLED_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    HAS_TSNE_FIELD_NUMBER: _ClassVar[int]
    name: str
    channels: int
    accuracy: float
    shuffled_accuracy: float
    has_tsne: bool
    def __init__(self, name: _Optional[str] = ..., channels: _Optional[int] = ..., accuracy: _Optional[float] = ..., shuffled_accuracy: _Optional[float] = ..., has_tsne: bool = ...) -> None: ...
