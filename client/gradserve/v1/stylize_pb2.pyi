from gradserve.v1 import common_pb2 as _common_pb2
from gradserve.v1 import progress_pb2 as _progress_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StylizeStart(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    STYLIZE_START_UNSPECIFIED: _ClassVar[StylizeStart]
    STYLIZE_START_CONTENT: _ClassVar[StylizeStart]
    STYLIZE_START_NOISE: _ClassVar[StylizeStart]
STYLIZE_START_UNSPECIFIED: StylizeStart
STYLIZE_START_CONTENT: StylizeStart
STYLIZE_START_NOISE: StylizeStart

class StylizeRequest(_message.Message):
    __slots__ = ["model", "content", "styles", "style_layers", "content_layers", "settings", "size", "snapshots", "options"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    STYLES_FIELD_NUMBER: _ClassVar[int]
    STYLE_LAYERS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_LAYERS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    content: _common_pb2.Image
    styles: _containers.RepeatedCompositeFieldContainer[Style]
    style_layers: _containers.RepeatedCompositeFieldContainer[LayerWeight]
    content_layers: _containers.RepeatedCompositeFieldContainer[LayerWeight]
    settings: StylizeSettings
    size: _progress_pb2.Size
    snapshots: _containers.RepeatedScalarFieldContainer[int]
    options: _common_pb2.RequestOptions
    def __init__(self, model: _Optional[str] = ..., content: _Optional[_Union[_common_pb2.Image, _Mapping]] = ..., styles: _Optional[_Iterable[_Union[Style, _Mapping]]] = ..., style_layers: _Optional[_Iterable[_Union[LayerWeight, _Mapping]]] = ..., content_layers: _Optional[_Iterable[_Union[LayerWeight, _Mapping]]] = ..., settings: _Optional[_Union[StylizeSettings, _Mapping]] = ..., size: _Optional[_Union[_progress_pb2.Size, _Mapping]] = ..., snapshots: _Optional[_Iterable[int]] = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ...) -> None: ...

class Style(_message.Message):
    __slots__ = ["image", "weight"]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    image: _common_pb2.Image
    weight: float
    def __init__(self, image: _Optional[_Union[_common_pb2.Image, _Mapping]] = ..., weight: _Optional[float] = ...) -> None: ...

class LayerWeight(_message.Message):
    __slots__ = ["layer", "weight"]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    layer: str
    weight: float
    def __init__(self, layer: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class StylizeSettings(_message.Message):
    __slots__ = ["start", "optimizer", "rate", "steps", "coarse_steps", "style_weight", "content_weight", "total_variation", "pad", "keep_colours"]
    START_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    COARSE_STEPS_FIELD_NUMBER: _ClassVar[int]
    STYLE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_VARIATION_FIELD_NUMBER: _ClassVar[int]
    PAD_FIELD_NUMBER: _ClassVar[int]
    KEEP_COLOURS_FIELD_NUMBER: _ClassVar[int]
    start: StylizeStart
    optimizer: _progress_pb2.Optimizer
    rate: float
    steps: int
    coarse_steps: int
    style_weight: float
    content_weight: float
    total_variation: float
    pad: float
    keep_colours: bool
    def __init__(self, start: _Optional[_Union[StylizeStart, str]] = ..., optimizer: _Optional[_Union[_progress_pb2.Optimizer, str]] = ..., rate: _Optional[float] = ..., steps: _Optional[int] = ..., coarse_steps: _Optional[int] = ..., style_weight: _Optional[float] = ..., content_weight: _Optional[float] = ..., total_variation: _Optional[float] = ..., pad: _Optional[float] = ..., keep_colours: bool = ...) -> None: ...

class StylizeResponse(_message.Message):
    __slots__ = ["png", "losses", "initial_losses", "curves", "snapshots", "style_layers", "content_layers", "settings", "asked", "done", "completed_fraction", "warnings", "provenance"]
    PNG_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    INITIAL_LOSSES_FIELD_NUMBER: _ClassVar[int]
    CURVES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    STYLE_LAYERS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_LAYERS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FRACTION_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    png: bytes
    losses: _containers.RepeatedCompositeFieldContainer[_progress_pb2.LossPart]
    initial_losses: _containers.RepeatedCompositeFieldContainer[_progress_pb2.LossPart]
    curves: _containers.RepeatedCompositeFieldContainer[_progress_pb2.Curve]
    snapshots: _containers.RepeatedCompositeFieldContainer[_progress_pb2.Snapshot]
    style_layers: _containers.RepeatedCompositeFieldContainer[LayerWeight]
    content_layers: _containers.RepeatedCompositeFieldContainer[LayerWeight]
    settings: StylizeSettings
    asked: int
    done: int
    completed_fraction: float
    warnings: _containers.RepeatedScalarFieldContainer[str]
    provenance: _common_pb2.Provenance
    def __init__(self, png: _Optional[bytes] = ..., losses: _Optional[_Iterable[_Union[_progress_pb2.LossPart, _Mapping]]] = ..., initial_losses: _Optional[_Iterable[_Union[_progress_pb2.LossPart, _Mapping]]] = ..., curves: _Optional[_Iterable[_Union[_progress_pb2.Curve, _Mapping]]] = ..., snapshots: _Optional[_Iterable[_Union[_progress_pb2.Snapshot, _Mapping]]] = ..., style_layers: _Optional[_Iterable[_Union[LayerWeight, _Mapping]]] = ..., content_layers: _Optional[_Iterable[_Union[LayerWeight, _Mapping]]] = ..., settings: _Optional[_Union[StylizeSettings, _Mapping]] = ..., asked: _Optional[int] = ..., done: _Optional[int] = ..., completed_fraction: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...

class StylizeEvent(_message.Message):
    __slots__ = ["progress", "result"]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: _progress_pb2.Progress
    result: StylizeResponse
    def __init__(self, progress: _Optional[_Union[_progress_pb2.Progress, _Mapping]] = ..., result: _Optional[_Union[StylizeResponse, _Mapping]] = ...) -> None: ...
