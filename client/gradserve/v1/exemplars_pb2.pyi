from gradserve.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExemplarsRequest(_message.Message):
    __slots__ = ["model", "layer", "channels", "count", "top", "spectrum", "values"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    SPECTRUM_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    model: str
    layer: str
    channels: _containers.RepeatedScalarFieldContainer[int]
    count: int
    top: int
    spectrum: bool
    values: bool
    def __init__(self, model: _Optional[str] = ..., layer: _Optional[str] = ..., channels: _Optional[_Iterable[int]] = ..., count: _Optional[int] = ..., top: _Optional[int] = ..., spectrum: bool = ..., values: bool = ...) -> None: ...

class ExemplarsResponse(_message.Message):
    __slots__ = ["layer", "channels", "pictures", "layers", "height", "width", "values", "provenance"]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    layer: str
    channels: _containers.RepeatedCompositeFieldContainer[ChannelExemplars]
    pictures: int
    layers: _containers.RepeatedScalarFieldContainer[str]
    height: int
    width: int
    values: _common_pb2.Tensor
    provenance: _common_pb2.Provenance
    def __init__(self, layer: _Optional[str] = ..., channels: _Optional[_Iterable[_Union[ChannelExemplars, _Mapping]]] = ..., pictures: _Optional[int] = ..., layers: _Optional[_Iterable[str]] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., values: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...

class ChannelExemplars(_message.Message):
    __slots__ = ["channel", "exemplars", "spectrum", "purity"]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    EXEMPLARS_FIELD_NUMBER: _ClassVar[int]
    SPECTRUM_FIELD_NUMBER: _ClassVar[int]
    PURITY_FIELD_NUMBER: _ClassVar[int]
    channel: int
    exemplars: _containers.RepeatedCompositeFieldContainer[ExemplarPatch]
    spectrum: _containers.RepeatedCompositeFieldContainer[ExemplarPatch]
    purity: float
    def __init__(self, channel: _Optional[int] = ..., exemplars: _Optional[_Iterable[_Union[ExemplarPatch, _Mapping]]] = ..., spectrum: _Optional[_Iterable[_Union[ExemplarPatch, _Mapping]]] = ..., purity: _Optional[float] = ...) -> None: ...

class ExemplarPatch(_message.Message):
    __slots__ = ["value", "row", "name", "label", "label_name", "y", "x", "left", "top", "width", "height", "picture"]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAME_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    value: float
    row: int
    name: str
    label: int
    label_name: str
    y: int
    x: int
    left: int
    top: int
    width: int
    height: int
    picture: bytes
    def __init__(self, value: _Optional[float] = ..., row: _Optional[int] = ..., name: _Optional[str] = ..., label: _Optional[int] = ..., label_name: _Optional[str] = ..., y: _Optional[int] = ..., x: _Optional[int] = ..., left: _Optional[int] = ..., top: _Optional[int] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., picture: _Optional[bytes] = ...) -> None: ...
