from gradserve.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InfluenceGoal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    INFLUENCE_GOAL_UNSPECIFIED: _ClassVar[InfluenceGoal]
    INFLUENCE_GOAL_LOSS: _ClassVar[InfluenceGoal]
    INFLUENCE_GOAL_MARGIN: _ClassVar[InfluenceGoal]
    INFLUENCE_GOAL_LOGIT: _ClassVar[InfluenceGoal]

class SuspectOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    SUSPECT_ORDER_UNSPECIFIED: _ClassVar[SuspectOrder]
    SUSPECT_ORDER_RANK_SUM: _ClassVar[SuspectOrder]
    SUSPECT_ORDER_SELF_INFLUENCE: _ClassVar[SuspectOrder]
    SUSPECT_ORDER_LOSS: _ClassVar[SuspectOrder]
    SUSPECT_ORDER_DISAGREEMENT: _ClassVar[SuspectOrder]

class Pooling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    POOLING_UNSPECIFIED: _ClassVar[Pooling]
    POOLING_MEAN: _ClassVar[Pooling]
    POOLING_MAX: _ClassVar[Pooling]
    POOLING_NONE: _ClassVar[Pooling]
INFLUENCE_GOAL_UNSPECIFIED: InfluenceGoal
INFLUENCE_GOAL_LOSS: InfluenceGoal
INFLUENCE_GOAL_MARGIN: InfluenceGoal
INFLUENCE_GOAL_LOGIT: InfluenceGoal
SUSPECT_ORDER_UNSPECIFIED: SuspectOrder
SUSPECT_ORDER_RANK_SUM: SuspectOrder
SUSPECT_ORDER_SELF_INFLUENCE: SuspectOrder
SUSPECT_ORDER_LOSS: SuspectOrder
SUSPECT_ORDER_DISAGREEMENT: SuspectOrder
POOLING_UNSPECIFIED: Pooling
POOLING_MEAN: Pooling
POOLING_MAX: Pooling
POOLING_NONE: Pooling

class InfluenceRequest(_message.Message):
    __slots__ = ["model", "image", "preprocess", "label", "goal", "method", "top", "thumbnails", "what_if", "ensemble", "options"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    THUMBNAILS_FIELD_NUMBER: _ClassVar[int]
    WHAT_IF_FIELD_NUMBER: _ClassVar[int]
    ENSEMBLE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: _common_pb2.Image
    preprocess: _common_pb2.Preprocess
    label: _common_pb2.Target
    goal: InfluenceGoal
    method: InfluenceMethod
    top: int
    thumbnails: bool
    what_if: _containers.RepeatedCompositeFieldContainer[Reweighting]
    ensemble: _containers.RepeatedScalarFieldContainer[str]
    options: _common_pb2.RequestOptions
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[_common_pb2.Image, _Mapping]] = ..., preprocess: _Optional[_Union[_common_pb2.Preprocess, str]] = ..., label: _Optional[_Union[_common_pb2.Target, _Mapping]] = ..., goal: _Optional[_Union[InfluenceGoal, str]] = ..., method: _Optional[_Union[InfluenceMethod, _Mapping]] = ..., top: _Optional[int] = ..., thumbnails: bool = ..., what_if: _Optional[_Iterable[_Union[Reweighting, _Mapping]]] = ..., ensemble: _Optional[_Iterable[str]] = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ...) -> None: ...

class InfluenceMethod(_message.Message):
    __slots__ = ["projected", "last_layer", "neighbours"]
    PROJECTED_FIELD_NUMBER: _ClassVar[int]
    LAST_LAYER_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    projected: ProjectedGaussNewton
    last_layer: LastLayer
    neighbours: Neighbours
    def __init__(self, projected: _Optional[_Union[ProjectedGaussNewton, _Mapping]] = ..., last_layer: _Optional[_Union[LastLayer, _Mapping]] = ..., neighbours: _Optional[_Union[Neighbours, _Mapping]] = ...) -> None: ...

class ProjectedGaussNewton(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class LastLayer(_message.Message):
    __slots__ = ["newton"]
    NEWTON_FIELD_NUMBER: _ClassVar[int]
    newton: bool
    def __init__(self, newton: bool = ...) -> None: ...

class Neighbours(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class Reweighting(_message.Message):
    __slots__ = ["rows", "weight"]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedScalarFieldContainer[int]
    weight: float
    def __init__(self, rows: _Optional[_Iterable[int]] = ..., weight: _Optional[float] = ...) -> None: ...

class InfluenceResponse(_message.Message):
    __slots__ = ["helpful", "harmful", "what_if", "label", "label_name", "probability", "value", "goal", "method", "method_name", "examples", "noise_floor", "coverage", "region", "provenance"]
    HELPFUL_FIELD_NUMBER: _ClassVar[int]
    HARMFUL_FIELD_NUMBER: _ClassVar[int]
    WHAT_IF_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAME_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    GOAL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    METHOD_NAME_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    NOISE_FLOOR_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    helpful: _containers.RepeatedCompositeFieldContainer[TrainingExample]
    harmful: _containers.RepeatedCompositeFieldContainer[TrainingExample]
    what_if: _containers.RepeatedScalarFieldContainer[float]
    label: int
    label_name: str
    probability: float
    value: float
    goal: InfluenceGoal
    method: InfluenceMethod
    method_name: str
    examples: int
    noise_floor: float
    coverage: float
    region: _common_pb2.Region
    provenance: _common_pb2.Provenance
    def __init__(self, helpful: _Optional[_Iterable[_Union[TrainingExample, _Mapping]]] = ..., harmful: _Optional[_Iterable[_Union[TrainingExample, _Mapping]]] = ..., what_if: _Optional[_Iterable[float]] = ..., label: _Optional[int] = ..., label_name: _Optional[str] = ..., probability: _Optional[float] = ..., value: _Optional[float] = ..., goal: _Optional[_Union[InfluenceGoal, str]] = ..., method: _Optional[_Union[InfluenceMethod, _Mapping]] = ..., method_name: _Optional[str] = ..., examples: _Optional[int] = ..., noise_floor: _Optional[float] = ..., coverage: _Optional[float] = ..., region: _Optional[_Union[_common_pb2.Region, _Mapping]] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...

class TrainingExample(_message.Message):
    __slots__ = ["row", "name", "label", "label_name", "predicted", "predicted_name", "change", "newton_change", "similarity", "loss", "self_influence", "parameter_change", "disagreement", "suspicion", "thumbnail"]
    ROW_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAME_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_NAME_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    NEWTON_CHANGE_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    SELF_INFLUENCE_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_CHANGE_FIELD_NUMBER: _ClassVar[int]
    DISAGREEMENT_FIELD_NUMBER: _ClassVar[int]
    SUSPICION_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    row: int
    name: str
    label: int
    label_name: str
    predicted: int
    predicted_name: str
    change: float
    newton_change: float
    similarity: float
    loss: float
    self_influence: float
    parameter_change: float
    disagreement: float
    suspicion: float
    thumbnail: bytes
    def __init__(self, row: _Optional[int] = ..., name: _Optional[str] = ..., label: _Optional[int] = ..., label_name: _Optional[str] = ..., predicted: _Optional[int] = ..., predicted_name: _Optional[str] = ..., change: _Optional[float] = ..., newton_change: _Optional[float] = ..., similarity: _Optional[float] = ..., loss: _Optional[float] = ..., self_influence: _Optional[float] = ..., parameter_change: _Optional[float] = ..., disagreement: _Optional[float] = ..., suspicion: _Optional[float] = ..., thumbnail: _Optional[bytes] = ...) -> None: ...

class SuspectsRequest(_message.Message):
    __slots__ = ["model", "top", "thumbnails", "order"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    THUMBNAILS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    model: str
    top: int
    thumbnails: bool
    order: SuspectOrder
    def __init__(self, model: _Optional[str] = ..., top: _Optional[int] = ..., thumbnails: bool = ..., order: _Optional[_Union[SuspectOrder, str]] = ...) -> None: ...

class SuspectsResponse(_message.Message):
    __slots__ = ["examples", "total", "provenance"]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    examples: _containers.RepeatedCompositeFieldContainer[TrainingExample]
    total: int
    provenance: _common_pb2.Provenance
    def __init__(self, examples: _Optional[_Iterable[_Union[TrainingExample, _Mapping]]] = ..., total: _Optional[int] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ["model", "image", "preprocess", "layer", "pooling", "options"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: _common_pb2.Image
    preprocess: _common_pb2.Preprocess
    layer: str
    pooling: Pooling
    options: _common_pb2.RequestOptions
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[_common_pb2.Image, _Mapping]] = ..., preprocess: _Optional[_Union[_common_pb2.Preprocess, str]] = ..., layer: _Optional[str] = ..., pooling: _Optional[_Union[Pooling, str]] = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ["features", "layer", "is_input", "region", "provenance"]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    IS_INPUT_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    features: _common_pb2.Tensor
    layer: str
    is_input: bool
    region: _common_pb2.Region
    provenance: _common_pb2.Provenance
    def __init__(self, features: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., layer: _Optional[str] = ..., is_input: bool = ..., region: _Optional[_Union[_common_pb2.Region, _Mapping]] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...
