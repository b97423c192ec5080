from gradserve.v1 import common_pb2 as _common_pb2
from gradserve.v1 import progress_pb2 as _progress_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MaximizePreset(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    MAXIMIZE_PRESET_UNSPECIFIED: _ClassVar[MaximizePreset]
    MAXIMIZE_PRESET_STRONG: _ClassVar[MaximizePreset]
    MAXIMIZE_PRESET_LUCID: _ClassVar[MaximizePreset]
    MAXIMIZE_PRESET_LECTURE: _ClassVar[MaximizePreset]
    MAXIMIZE_PRESET_DREAM: _ClassVar[MaximizePreset]
    MAXIMIZE_PRESET_PLAIN: _ClassVar[MaximizePreset]

class Start(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    START_UNSPECIFIED: _ClassVar[Start]
    START_NOISE: _ClassVar[Start]
    START_GREY: _ClassVar[Start]
    START_IMAGE: _ClassVar[Start]

class Parameterization(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    PARAMETERIZATION_UNSPECIFIED: _ClassVar[Parameterization]
    PARAMETERIZATION_PIXELS: _ClassVar[Parameterization]
    PARAMETERIZATION_FOURIER: _ClassVar[Parameterization]
MAXIMIZE_PRESET_UNSPECIFIED: MaximizePreset
MAXIMIZE_PRESET_STRONG: MaximizePreset
MAXIMIZE_PRESET_LUCID: MaximizePreset
MAXIMIZE_PRESET_LECTURE: MaximizePreset
MAXIMIZE_PRESET_DREAM: MaximizePreset
MAXIMIZE_PRESET_PLAIN: MaximizePreset
START_UNSPECIFIED: Start
START_NOISE: Start
START_GREY: Start
START_IMAGE: Start
PARAMETERIZATION_UNSPECIFIED: Parameterization
PARAMETERIZATION_PIXELS: Parameterization
PARAMETERIZATION_FOURIER: Parameterization

class MaximizeRequest(_message.Message):
    __slots__ = ["model", "goals", "preset", "settings", "image", "size", "snapshots", "options"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    GOALS_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    goals: _containers.RepeatedCompositeFieldContainer[Goal]
    preset: MaximizePreset
    settings: MaximizeSettings
    image: _common_pb2.Image
    size: _progress_pb2.Size
    snapshots: _containers.RepeatedScalarFieldContainer[int]
    options: _common_pb2.RequestOptions
    def __init__(self, model: _Optional[str] = ..., goals: _Optional[_Iterable[_Union[Goal, _Mapping]]] = ..., preset: _Optional[_Union[MaximizePreset, str]] = ..., settings: _Optional[_Union[MaximizeSettings, _Mapping]] = ..., image: _Optional[_Union[_common_pb2.Image, _Mapping]] = ..., size: _Optional[_Union[_progress_pb2.Size, _Mapping]] = ..., snapshots: _Optional[_Iterable[int]] = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ...) -> None: ...

class Goal(_message.Message):
    __slots__ = ["summands"]
    SUMMANDS_FIELD_NUMBER: _ClassVar[int]
    summands: _containers.RepeatedCompositeFieldContainer[Summand]
    def __init__(self, summands: _Optional[_Iterable[_Union[Summand, _Mapping]]] = ...) -> None: ...

class Summand(_message.Message):
    __slots__ = ["target", "layer", "direction", "logits", "weight"]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    target: _common_pb2.Target
    layer: str
    direction: _common_pb2.Direction
    logits: _common_pb2.Tensor
    weight: float
    def __init__(self, target: _Optional[_Union[_common_pb2.Target, _Mapping]] = ..., layer: _Optional[str] = ..., direction: _Optional[_Union[_common_pb2.Direction, _Mapping]] = ..., logits: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., weight: _Optional[float] = ...) -> None: ...

class MaximizeSettings(_message.Message):
    __slots__ = ["start", "spread", "parameterization", "optimizer", "rate", "steps", "octaves", "octave_scale", "edge_energy", "total_variation", "l2", "blur_every", "blur_sigma", "clip_every", "clip_pixels", "clip_gradients", "pad", "jitter", "scale", "rotate", "noise", "stretch"]
    START_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    PARAMETERIZATION_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    OCTAVES_FIELD_NUMBER: _ClassVar[int]
    OCTAVE_SCALE_FIELD_NUMBER: _ClassVar[int]
    EDGE_ENERGY_FIELD_NUMBER: _ClassVar[int]
    TOTAL_VARIATION_FIELD_NUMBER: _ClassVar[int]
    L2_FIELD_NUMBER: _ClassVar[int]
    BLUR_EVERY_FIELD_NUMBER: _ClassVar[int]
    BLUR_SIGMA_FIELD_NUMBER: _ClassVar[int]
    CLIP_EVERY_FIELD_NUMBER: _ClassVar[int]
    CLIP_PIXELS_FIELD_NUMBER: _ClassVar[int]
    CLIP_GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    PAD_FIELD_NUMBER: _ClassVar[int]
    JITTER_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    ROTATE_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    STRETCH_FIELD_NUMBER: _ClassVar[int]
    start: Start
    spread: float
    parameterization: Parameterization
    optimizer: _progress_pb2.Optimizer
    rate: float
    steps: int
    octaves: int
    octave_scale: float
    edge_energy: float
    total_variation: float
    l2: float
    blur_every: int
    blur_sigma: float
    clip_every: int
    clip_pixels: float
    clip_gradients: float
    pad: float
    jitter: float
    scale: float
    rotate: float
    noise: float
    stretch: bool
    def __init__(self, start: _Optional[_Union[Start, str]] = ..., spread: _Optional[float] = ..., parameterization: _Optional[_Union[Parameterization, str]] = ..., optimizer: _Optional[_Union[_progress_pb2.Optimizer, str]] = ..., rate: _Optional[float] = ..., steps: _Optional[int] = ..., octaves: _Optional[int] = ..., octave_scale: _Optional[float] = ..., edge_energy: _Optional[float] = ..., total_variation: _Optional[float] = ..., l2: _Optional[float] = ..., blur_every: _Optional[int] = ..., blur_sigma: _Optional[float] = ..., clip_every: _Optional[int] = ..., clip_pixels: _Optional[float] = ..., clip_gradients: _Optional[float] = ..., pad: _Optional[float] = ..., jitter: _Optional[float] = ..., scale: _Optional[float] = ..., rotate: _Optional[float] = ..., noise: _Optional[float] = ..., stretch: bool = ...) -> None: ...

class MaximizeResponse(_message.Message):
    __slots__ = ["images", "preset", "settings", "asked", "done", "completed_fraction", "warnings", "provenance"]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FRACTION_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[Maximized]
    preset: MaximizePreset
    settings: MaximizeSettings
    asked: int
    done: int
    completed_fraction: float
    warnings: _containers.RepeatedScalarFieldContainer[str]
    provenance: _common_pb2.Provenance
    def __init__(self, images: _Optional[_Iterable[_Union[Maximized, _Mapping]]] = ..., preset: _Optional[_Union[MaximizePreset, str]] = ..., settings: _Optional[_Union[MaximizeSettings, _Mapping]] = ..., asked: _Optional[int] = ..., done: _Optional[int] = ..., completed_fraction: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...

class Maximized(_message.Message):
    __slots__ = ["goal", "name", "png", "display", "value", "top", "curves", "snapshots"]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    CURVES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    goal: Goal
    name: str
    png: bytes
    display: bytes
    value: float
    top: _containers.RepeatedCompositeFieldContainer[_common_pb2.Score]
    curves: _containers.RepeatedCompositeFieldContainer[_progress_pb2.Curve]
    snapshots: _containers.RepeatedCompositeFieldContainer[_progress_pb2.Snapshot]
    def __init__(self, goal: _Optional[_Union[Goal, _Mapping]] = ..., name: _Optional[str] = ..., png: _Optional[bytes] = ..., display: _Optional[bytes] = ..., value: _Optional[float] = ..., top: _Optional[_Iterable[_Union[_common_pb2.Score, _Mapping]]] = ..., curves: _Optional[_Iterable[_Union[_progress_pb2.Curve, _Mapping]]] = ..., snapshots: _Optional[_Iterable[_Union[_progress_pb2.Snapshot, _Mapping]]] = ...) -> None: ...

class MaximizeEvent(_message.Message):
    __slots__ = ["progress", "result"]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: _progress_pb2.Progress
    result: MaximizeResponse
    def __init__(self, progress: _Optional[_Union[_progress_pb2.Progress, _Mapping]] = ..., result: _Optional[_Union[MaximizeResponse, _Mapping]] = ...) -> None: ...
