from gradserve.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChannelOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    CHANNEL_ORDER_UNSPECIFIED: _ClassVar[ChannelOrder]
    CHANNEL_ORDER_MEAN: _ClassVar[ChannelOrder]
    CHANNEL_ORDER_MAX: _ClassVar[ChannelOrder]

class WeightsLook(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    WEIGHTS_LOOK_UNSPECIFIED: _ClassVar[WeightsLook]
    WEIGHTS_LOOK_COLOUR: _ClassVar[WeightsLook]
    WEIGHTS_LOOK_MAPS: _ClassVar[WeightsLook]
    WEIGHTS_LOOK_ROW: _ClassVar[WeightsLook]
CHANNEL_ORDER_UNSPECIFIED: ChannelOrder
CHANNEL_ORDER_MEAN: ChannelOrder
CHANNEL_ORDER_MAX: ChannelOrder
WEIGHTS_LOOK_UNSPECIFIED: WeightsLook
WEIGHTS_LOOK_COLOUR: WeightsLook
WEIGHTS_LOOK_MAPS: WeightsLook
WEIGHTS_LOOK_ROW: WeightsLook

class InspectRequest(_message.Message):
    __slots__ = ["model", "weights", "activations", "table", "receptive_field", "options"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    RECEPTIVE_FIELD_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    weights: WeightsView
    activations: ActivationsView
    table: TableView
    receptive_field: ReceptiveFieldView
    options: _common_pb2.RequestOptions
    def __init__(self, model: _Optional[str] = ..., weights: _Optional[_Union[WeightsView, _Mapping]] = ..., activations: _Optional[_Union[ActivationsView, _Mapping]] = ..., table: _Optional[_Union[TableView, _Mapping]] = ..., receptive_field: _Optional[_Union[ReceptiveFieldView, _Mapping]] = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ...) -> None: ...

class WeightsView(_message.Message):
    __slots__ = ["layer", "channels", "count", "inputs", "common_scale", "values"]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    COMMON_SCALE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    layer: str
    channels: _containers.RepeatedScalarFieldContainer[int]
    count: int
    inputs: int
    common_scale: bool
    values: bool
    def __init__(self, layer: _Optional[str] = ..., channels: _Optional[_Iterable[int]] = ..., count: _Optional[int] = ..., inputs: _Optional[int] = ..., common_scale: bool = ..., values: bool = ...) -> None: ...

class ActivationsView(_message.Message):
    __slots__ = ["layer", "image", "preprocess", "channels", "count", "order", "values"]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    layer: str
    image: _common_pb2.Image
    preprocess: _common_pb2.Preprocess
    channels: _containers.RepeatedScalarFieldContainer[int]
    count: int
    order: ChannelOrder
    values: bool
    def __init__(self, layer: _Optional[str] = ..., image: _Optional[_Union[_common_pb2.Image, _Mapping]] = ..., preprocess: _Optional[_Union[_common_pb2.Preprocess, str]] = ..., channels: _Optional[_Iterable[int]] = ..., count: _Optional[int] = ..., order: _Optional[_Union[ChannelOrder, str]] = ..., values: bool = ...) -> None: ...

class TableView(_message.Message):
    __slots__ = ["images", "preprocess", "labels"]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[_common_pb2.Image]
    preprocess: _common_pb2.Preprocess
    labels: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, images: _Optional[_Iterable[_Union[_common_pb2.Image, _Mapping]]] = ..., preprocess: _Optional[_Union[_common_pb2.Preprocess, str]] = ..., labels: _Optional[_Iterable[int]] = ...) -> None: ...

class ReceptiveFieldView(_message.Message):
    __slots__ = ["layer", "channel"]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    layer: str
    channel: int
    def __init__(self, layer: _Optional[str] = ..., channel: _Optional[int] = ...) -> None: ...

class InspectResponse(_message.Message):
    __slots__ = ["weights", "activations", "table", "receptive_field", "provenance"]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    RECEPTIVE_FIELD_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    weights: Weights
    activations: Activations
    table: LayerTable
    receptive_field: ReceptiveField
    provenance: _common_pb2.Provenance
    def __init__(self, weights: _Optional[_Union[Weights, _Mapping]] = ..., activations: _Optional[_Union[Activations, _Mapping]] = ..., table: _Optional[_Union[LayerTable, _Mapping]] = ..., receptive_field: _Optional[_Union[ReceptiveField, _Mapping]] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...

class Weights(_message.Message):
    __slots__ = ["layer", "look", "shape", "channels", "norms", "inputs", "png", "values", "folded"]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    LOOK_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    NORMS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    FOLDED_FIELD_NUMBER: _ClassVar[int]
    layer: str
    look: WeightsLook
    shape: _containers.RepeatedScalarFieldContainer[int]
    channels: _containers.RepeatedScalarFieldContainer[int]
    norms: _containers.RepeatedScalarFieldContainer[float]
    inputs: _containers.RepeatedScalarFieldContainer[int]
    png: bytes
    values: _common_pb2.Tensor
    folded: str
    def __init__(self, layer: _Optional[str] = ..., look: _Optional[_Union[WeightsLook, str]] = ..., shape: _Optional[_Iterable[int]] = ..., channels: _Optional[_Iterable[int]] = ..., norms: _Optional[_Iterable[float]] = ..., inputs: _Optional[_Iterable[int]] = ..., png: _Optional[bytes] = ..., values: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., folded: _Optional[str] = ...) -> None: ...

class Activations(_message.Message):
    __slots__ = ["layer", "total", "channels", "means", "maxima", "png", "values", "region"]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    MEANS_FIELD_NUMBER: _ClassVar[int]
    MAXIMA_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    layer: str
    total: int
    channels: _containers.RepeatedScalarFieldContainer[int]
    means: _containers.RepeatedScalarFieldContainer[float]
    maxima: _containers.RepeatedScalarFieldContainer[float]
    png: bytes
    values: _common_pb2.Tensor
    region: _common_pb2.Region
    def __init__(self, layer: _Optional[str] = ..., total: _Optional[int] = ..., channels: _Optional[_Iterable[int]] = ..., means: _Optional[_Iterable[float]] = ..., maxima: _Optional[_Iterable[float]] = ..., png: _Optional[bytes] = ..., values: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., region: _Optional[_Union[_common_pb2.Region, _Mapping]] = ...) -> None: ...

class LayerTable(_message.Message):
    __slots__ = ["layers", "parameters", "multiply_adds", "values", "pictures", "loss"]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[LayerRow]
    parameters: int
    multiply_adds: int
    values: int
    pictures: int
    loss: float
    def __init__(self, layers: _Optional[_Iterable[_Union[LayerRow, _Mapping]]] = ..., parameters: _Optional[int] = ..., multiply_adds: _Optional[int] = ..., values: _Optional[int] = ..., pictures: _Optional[int] = ..., loss: _Optional[float] = ...) -> None: ...

class LayerRow(_message.Message):
    __slots__ = ["name", "kind", "shape", "values", "counted", "parameters", "multiply_adds", "dead_share", "mean", "std", "gradient_norm", "folded"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_FIELD_NUMBER: _ClassVar[int]
    DEAD_SHARE_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    FOLDED_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    values: int
    counted: bool
    parameters: int
    multiply_adds: int
    dead_share: float
    mean: float
    std: float
    gradient_norm: float
    folded: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., values: _Optional[int] = ..., counted: bool = ..., parameters: _Optional[int] = ..., multiply_adds: _Optional[int] = ..., dead_share: _Optional[float] = ..., mean: _Optional[float] = ..., std: _Optional[float] = ..., gradient_norm: _Optional[float] = ..., folded: _Optional[str] = ...) -> None: ...

class ReceptiveField(_message.Message):
    __slots__ = ["layer", "height", "width", "at_least", "whole_picture", "stride_y", "stride_x", "offset_y", "offset_x", "effective_size", "picture_height", "picture_width", "y", "x"]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    WHOLE_PICTURE_FIELD_NUMBER: _ClassVar[int]
    STRIDE_Y_FIELD_NUMBER: _ClassVar[int]
    STRIDE_X_FIELD_NUMBER: _ClassVar[int]
    OFFSET_Y_FIELD_NUMBER: _ClassVar[int]
    OFFSET_X_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PICTURE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    PICTURE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    layer: str
    height: int
    width: int
    at_least: bool
    whole_picture: bool
    stride_y: int
    stride_x: int
    offset_y: int
    offset_x: int
    effective_size: float
    picture_height: int
    picture_width: int
    y: int
    x: int
    def __init__(self, layer: _Optional[str] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., at_least: bool = ..., whole_picture: bool = ..., stride_y: _Optional[int] = ..., stride_x: _Optional[int] = ..., offset_y: _Optional[int] = ..., offset_x: _Optional[int] = ..., effective_size: _Optional[float] = ..., picture_height: _Optional[int] = ..., picture_width: _Optional[int] = ..., y: _Optional[int] = ..., x: _Optional[int] = ...) -> None: ...
