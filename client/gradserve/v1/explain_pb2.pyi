from gradserve.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reduce(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    REDUCE_UNSPECIFIED: _ClassVar[Reduce]
    REDUCE_SUM: _ClassVar[Reduce]
    REDUCE_MAX: _ClassVar[Reduce]
    REDUCE_SIGNED: _ClassVar[Reduce]

class SmoothGradStatistic(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    SMOOTH_GRAD_STATISTIC_UNSPECIFIED: _ClassVar[SmoothGradStatistic]
    SMOOTH_GRAD_STATISTIC_MEAN: _ClassVar[SmoothGradStatistic]
    SMOOTH_GRAD_STATISTIC_VARIANCE: _ClassVar[SmoothGradStatistic]
    SMOOTH_GRAD_STATISTIC_SQUARE: _ClassVar[SmoothGradStatistic]

class Baseline(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    BASELINE_UNSPECIFIED: _ClassVar[Baseline]
    BASELINE_BLACK: _ClassVar[Baseline]
    BASELINE_MEAN: _ClassVar[Baseline]
    BASELINE_BLUR: _ClassVar[Baseline]
    BASELINE_NOISE: _ClassVar[Baseline]

class LrpRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    LRP_RULE_UNSPECIFIED: _ClassVar[LrpRule]
    LRP_RULE_Z_PLUS: _ClassVar[LrpRule]
    LRP_RULE_GAMMA: _ClassVar[LrpRule]
    LRP_RULE_EPSILON: _ClassVar[LrpRule]

class LrpInputRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    LRP_INPUT_RULE_UNSPECIFIED: _ClassVar[LrpInputRule]
    LRP_INPUT_RULE_SAME: _ClassVar[LrpInputRule]
    LRP_INPUT_RULE_FLAT: _ClassVar[LrpInputRule]
    LRP_INPUT_RULE_BOX: _ClassVar[LrpInputRule]

class GradientShapBaselines(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    GRADIENT_SHAP_BASELINES_UNSPECIFIED: _ClassVar[GradientShapBaselines]
    GRADIENT_SHAP_BASELINES_MIXED: _ClassVar[GradientShapBaselines]
    GRADIENT_SHAP_BASELINES_BLACK: _ClassVar[GradientShapBaselines]
    GRADIENT_SHAP_BASELINES_MEAN: _ClassVar[GradientShapBaselines]
    GRADIENT_SHAP_BASELINES_BLUR: _ClassVar[GradientShapBaselines]
    GRADIENT_SHAP_BASELINES_NOISE: _ClassVar[GradientShapBaselines]

class MapFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    MAP_FORMAT_UNSPECIFIED: _ClassVar[MapFormat]
    MAP_FORMAT_FLOAT32: _ClassVar[MapFormat]
    MAP_FORMAT_FLOAT16: _ClassVar[MapFormat]
    MAP_FORMAT_PNG: _ClassVar[MapFormat]

class TrustVerdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    TRUST_VERDICT_UNSPECIFIED: _ClassVar[TrustVerdict]
    TRUST_VERDICT_NO_BETTER_THAN_CHANCE: _ClassVar[TrustVerdict]
    TRUST_VERDICT_NO_BETTER_THAN_CENTRE: _ClassVar[TrustVerdict]
    TRUST_VERDICT_BEATS_BOTH: _ClassVar[TrustVerdict]
REDUCE_UNSPECIFIED: Reduce
REDUCE_SUM: Reduce
REDUCE_MAX: Reduce
REDUCE_SIGNED: Reduce
SMOOTH_GRAD_STATISTIC_UNSPECIFIED: SmoothGradStatistic
SMOOTH_GRAD_STATISTIC_MEAN: SmoothGradStatistic
SMOOTH_GRAD_STATISTIC_VARIANCE: SmoothGradStatistic
SMOOTH_GRAD_STATISTIC_SQUARE: SmoothGradStatistic
BASELINE_UNSPECIFIED: Baseline
BASELINE_BLACK: Baseline
BASELINE_MEAN: Baseline
BASELINE_BLUR: Baseline
BASELINE_NOISE: Baseline
LRP_RULE_UNSPECIFIED: LrpRule
LRP_RULE_Z_PLUS: LrpRule
LRP_RULE_GAMMA: LrpRule
LRP_RULE_EPSILON: LrpRule
LRP_INPUT_RULE_UNSPECIFIED: LrpInputRule
LRP_INPUT_RULE_SAME: LrpInputRule
LRP_INPUT_RULE_FLAT: LrpInputRule
LRP_INPUT_RULE_BOX: LrpInputRule
GRADIENT_SHAP_BASELINES_UNSPECIFIED: GradientShapBaselines
GRADIENT_SHAP_BASELINES_MIXED: GradientShapBaselines
GRADIENT_SHAP_BASELINES_BLACK: GradientShapBaselines
GRADIENT_SHAP_BASELINES_MEAN: GradientShapBaselines
GRADIENT_SHAP_BASELINES_BLUR: GradientShapBaselines
GRADIENT_SHAP_BASELINES_NOISE: GradientShapBaselines
MAP_FORMAT_UNSPECIFIED: MapFormat
MAP_FORMAT_FLOAT32: MapFormat
MAP_FORMAT_FLOAT16: MapFormat
MAP_FORMAT_PNG: MapFormat
TRUST_VERDICT_UNSPECIFIED: TrustVerdict
TRUST_VERDICT_NO_BETTER_THAN_CHANCE: TrustVerdict
TRUST_VERDICT_NO_BETTER_THAN_CENTRE: TrustVerdict
TRUST_VERDICT_BEATS_BOTH: TrustVerdict

class ExplainRequest(_message.Message):
    __slots__ = ["model", "image", "preprocess", "methods", "targets", "format", "overlay", "options", "segment", "trust", "curves", "until_stable"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    OVERLAY_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    CURVES_FIELD_NUMBER: _ClassVar[int]
    UNTIL_STABLE_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: _common_pb2.Image
    preprocess: _common_pb2.Preprocess
    methods: _containers.RepeatedCompositeFieldContainer[ExplainMethod]
    targets: _containers.RepeatedCompositeFieldContainer[_common_pb2.Target]
    format: MapFormat
    overlay: bool
    options: _common_pb2.RequestOptions
    segment: bool
    trust: bool
    curves: bool
    until_stable: float
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[_common_pb2.Image, _Mapping]] = ..., preprocess: _Optional[_Union[_common_pb2.Preprocess, str]] = ..., methods: _Optional[_Iterable[_Union[ExplainMethod, _Mapping]]] = ..., targets: _Optional[_Iterable[_Union[_common_pb2.Target, _Mapping]]] = ..., format: _Optional[_Union[MapFormat, str]] = ..., overlay: bool = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ..., segment: bool = ..., trust: bool = ..., curves: bool = ..., until_stable: _Optional[float] = ...) -> None: ...

class ExplainMethod(_message.Message):
    __slots__ = ["gradient", "gradient_x_input", "smooth_grad", "integrated_gradients", "guided_backprop", "deconvnet", "grad_cam", "guided_grad_cam", "occlusion", "layer_cam", "lrp", "rise", "lime", "kernel_shap", "gradient_shap"]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_X_INPUT_FIELD_NUMBER: _ClassVar[int]
    SMOOTH_GRAD_FIELD_NUMBER: _ClassVar[int]
    INTEGRATED_GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    GUIDED_BACKPROP_FIELD_NUMBER: _ClassVar[int]
    DECONVNET_FIELD_NUMBER: _ClassVar[int]
    GRAD_CAM_FIELD_NUMBER: _ClassVar[int]
    GUIDED_GRAD_CAM_FIELD_NUMBER: _ClassVar[int]
    OCCLUSION_FIELD_NUMBER: _ClassVar[int]
    LAYER_CAM_FIELD_NUMBER: _ClassVar[int]
    LRP_FIELD_NUMBER: _ClassVar[int]
    RISE_FIELD_NUMBER: _ClassVar[int]
    LIME_FIELD_NUMBER: _ClassVar[int]
    KERNEL_SHAP_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_SHAP_FIELD_NUMBER: _ClassVar[int]
    gradient: Gradient
    gradient_x_input: GradientXInput
    smooth_grad: SmoothGrad
    integrated_gradients: IntegratedGradients
    guided_backprop: GuidedBackprop
    deconvnet: Deconvnet
    grad_cam: GradCam
    guided_grad_cam: GuidedGradCam
    occlusion: Occlusion
    layer_cam: LayerCam
    lrp: Lrp
    rise: Rise
    lime: Lime
    kernel_shap: KernelShap
    gradient_shap: GradientShap
    def __init__(self, gradient: _Optional[_Union[Gradient, _Mapping]] = ..., gradient_x_input: _Optional[_Union[GradientXInput, _Mapping]] = ..., smooth_grad: _Optional[_Union[SmoothGrad, _Mapping]] = ..., integrated_gradients: _Optional[_Union[IntegratedGradients, _Mapping]] = ..., guided_backprop: _Optional[_Union[GuidedBackprop, _Mapping]] = ..., deconvnet: _Optional[_Union[Deconvnet, _Mapping]] = ..., grad_cam: _Optional[_Union[GradCam, _Mapping]] = ..., guided_grad_cam: _Optional[_Union[GuidedGradCam, _Mapping]] = ..., occlusion: _Optional[_Union[Occlusion, _Mapping]] = ..., layer_cam: _Optional[_Union[LayerCam, _Mapping]] = ..., lrp: _Optional[_Union[Lrp, _Mapping]] = ..., rise: _Optional[_Union[Rise, _Mapping]] = ..., lime: _Optional[_Union[Lime, _Mapping]] = ..., kernel_shap: _Optional[_Union[KernelShap, _Mapping]] = ..., gradient_shap: _Optional[_Union[GradientShap, _Mapping]] = ...) -> None: ...

class Gradient(_message.Message):
    __slots__ = ["reduce", "log_prob"]
    REDUCE_FIELD_NUMBER: _ClassVar[int]
    LOG_PROB_FIELD_NUMBER: _ClassVar[int]
    reduce: Reduce
    log_prob: bool
    def __init__(self, reduce: _Optional[_Union[Reduce, str]] = ..., log_prob: bool = ...) -> None: ...

class GradientXInput(_message.Message):
    __slots__ = ["reduce"]
    REDUCE_FIELD_NUMBER: _ClassVar[int]
    reduce: Reduce
    def __init__(self, reduce: _Optional[_Union[Reduce, str]] = ...) -> None: ...

class SmoothGrad(_message.Message):
    __slots__ = ["samples", "noise", "statistic", "reduce"]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    STATISTIC_FIELD_NUMBER: _ClassVar[int]
    REDUCE_FIELD_NUMBER: _ClassVar[int]
    samples: int
    noise: float
    statistic: SmoothGradStatistic
    reduce: Reduce
    def __init__(self, samples: _Optional[int] = ..., noise: _Optional[float] = ..., statistic: _Optional[_Union[SmoothGradStatistic, str]] = ..., reduce: _Optional[_Union[Reduce, str]] = ...) -> None: ...

class IntegratedGradients(_message.Message):
    __slots__ = ["steps", "baseline", "reduce"]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    REDUCE_FIELD_NUMBER: _ClassVar[int]
    steps: int
    baseline: Baseline
    reduce: Reduce
    def __init__(self, steps: _Optional[int] = ..., baseline: _Optional[_Union[Baseline, str]] = ..., reduce: _Optional[_Union[Reduce, str]] = ...) -> None: ...

class GuidedBackprop(_message.Message):
    __slots__ = ["reduce"]
    REDUCE_FIELD_NUMBER: _ClassVar[int]
    reduce: Reduce
    def __init__(self, reduce: _Optional[_Union[Reduce, str]] = ...) -> None: ...

class Deconvnet(_message.Message):
    __slots__ = ["reduce"]
    REDUCE_FIELD_NUMBER: _ClassVar[int]
    reduce: Reduce
    def __init__(self, reduce: _Optional[_Union[Reduce, str]] = ...) -> None: ...

class GradCam(_message.Message):
    __slots__ = ["layer", "signed"]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    layer: str
    signed: bool
    def __init__(self, layer: _Optional[str] = ..., signed: bool = ...) -> None: ...

class GuidedGradCam(_message.Message):
    __slots__ = ["layer", "reduce"]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REDUCE_FIELD_NUMBER: _ClassVar[int]
    layer: str
    reduce: Reduce
    def __init__(self, layer: _Optional[str] = ..., reduce: _Optional[_Union[Reduce, str]] = ...) -> None: ...

class LayerCam(_message.Message):
    __slots__ = ["layer"]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    layer: str
    def __init__(self, layer: _Optional[str] = ...) -> None: ...

class Lrp(_message.Message):
    __slots__ = ["rule", "gamma", "input_rule"]
    RULE_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    INPUT_RULE_FIELD_NUMBER: _ClassVar[int]
    rule: LrpRule
    gamma: float
    input_rule: LrpInputRule
    def __init__(self, rule: _Optional[_Union[LrpRule, str]] = ..., gamma: _Optional[float] = ..., input_rule: _Optional[_Union[LrpInputRule, str]] = ...) -> None: ...

class Occlusion(_message.Message):
    __slots__ = ["patch", "stride", "value"]
    PATCH_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    patch: float
    stride: float
    value: float
    def __init__(self, patch: _Optional[float] = ..., stride: _Optional[float] = ..., value: _Optional[float] = ...) -> None: ...

class Rise(_message.Message):
    __slots__ = ["samples", "grid", "keep", "baseline"]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    samples: int
    grid: int
    keep: float
    baseline: Baseline
    def __init__(self, samples: _Optional[int] = ..., grid: _Optional[int] = ..., keep: _Optional[float] = ..., baseline: _Optional[_Union[Baseline, str]] = ...) -> None: ...

class Lime(_message.Message):
    __slots__ = ["samples", "segments", "compactness", "baseline", "kernel_width", "ridge"]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    COMPACTNESS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    KERNEL_WIDTH_FIELD_NUMBER: _ClassVar[int]
    RIDGE_FIELD_NUMBER: _ClassVar[int]
    samples: int
    segments: int
    compactness: float
    baseline: Baseline
    kernel_width: float
    ridge: float
    def __init__(self, samples: _Optional[int] = ..., segments: _Optional[int] = ..., compactness: _Optional[float] = ..., baseline: _Optional[_Union[Baseline, str]] = ..., kernel_width: _Optional[float] = ..., ridge: _Optional[float] = ...) -> None: ...

class KernelShap(_message.Message):
    __slots__ = ["samples", "segments", "compactness", "baseline"]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    COMPACTNESS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    samples: int
    segments: int
    compactness: float
    baseline: Baseline
    def __init__(self, samples: _Optional[int] = ..., segments: _Optional[int] = ..., compactness: _Optional[float] = ..., baseline: _Optional[_Union[Baseline, str]] = ...) -> None: ...

class GradientShap(_message.Message):
    __slots__ = ["samples", "baselines", "noise", "reduce"]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    BASELINES_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    REDUCE_FIELD_NUMBER: _ClassVar[int]
    samples: int
    baselines: GradientShapBaselines
    noise: float
    reduce: Reduce
    def __init__(self, samples: _Optional[int] = ..., baselines: _Optional[_Union[GradientShapBaselines, str]] = ..., noise: _Optional[float] = ..., reduce: _Optional[_Union[Reduce, str]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ["explanations", "region", "provenance"]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    explanations: _containers.RepeatedCompositeFieldContainer[Explanation]
    region: _common_pb2.Region
    provenance: _common_pb2.Provenance
    def __init__(self, explanations: _Optional[_Iterable[_Union[Explanation, _Mapping]]] = ..., region: _Optional[_Union[_common_pb2.Region, _Mapping]] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...

class ExplainEvent(_message.Message):
    __slots__ = ["progress", "result"]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: ExplainProgress
    result: ExplainResponse
    def __init__(self, progress: _Optional[_Union[ExplainProgress, _Mapping]] = ..., result: _Optional[_Union[ExplainResponse, _Mapping]] = ...) -> None: ...

class ExplainProgress(_message.Message):
    __slots__ = ["index", "explanation", "finished", "region"]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    index: int
    explanation: Explanation
    finished: bool
    region: _common_pb2.Region
    def __init__(self, index: _Optional[int] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ..., finished: bool = ..., region: _Optional[_Union[_common_pb2.Region, _Mapping]] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ["method", "method_name", "target", "target_name", "target_value", "raw", "png", "low", "high", "overlay", "coarse", "completeness_gap", "asked", "done", "completed_fraction", "warnings", "segment", "trust", "standard_error"]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    METHOD_NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TARGET_NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_VALUE_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    OVERLAY_FIELD_NUMBER: _ClassVar[int]
    COARSE_FIELD_NUMBER: _ClassVar[int]
    COMPLETENESS_GAP_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FRACTION_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    method: ExplainMethod
    method_name: str
    target: _common_pb2.Target
    target_name: str
    target_value: float
    raw: _common_pb2.Tensor
    png: bytes
    low: float
    high: float
    overlay: bytes
    coarse: _common_pb2.Tensor
    completeness_gap: float
    asked: int
    done: int
    completed_fraction: float
    warnings: _containers.RepeatedScalarFieldContainer[str]
    segment: Segment
    trust: Trust
    standard_error: float
    def __init__(self, method: _Optional[_Union[ExplainMethod, _Mapping]] = ..., method_name: _Optional[str] = ..., target: _Optional[_Union[_common_pb2.Target, _Mapping]] = ..., target_name: _Optional[str] = ..., target_value: _Optional[float] = ..., raw: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., png: _Optional[bytes] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., overlay: _Optional[bytes] = ..., coarse: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., completeness_gap: _Optional[float] = ..., asked: _Optional[int] = ..., done: _Optional[int] = ..., completed_fraction: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ..., segment: _Optional[_Union[Segment, _Mapping]] = ..., trust: _Optional[_Union[Trust, _Mapping]] = ..., standard_error: _Optional[float] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ["mask", "outline", "box", "share"]
    MASK_FIELD_NUMBER: _ClassVar[int]
    OUTLINE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    mask: bytes
    outline: _containers.RepeatedScalarFieldContainer[float]
    box: _common_pb2.Box
    share: float
    def __init__(self, mask: _Optional[bytes] = ..., outline: _Optional[_Iterable[float]] = ..., box: _Optional[_Union[_common_pb2.Box, _Mapping]] = ..., share: _Optional[float] = ...) -> None: ...

class Trust(_message.Message):
    __slots__ = ["agreement", "chance_p", "centre_agreement", "verdict", "sentence", "curves"]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    CHANCE_P_FIELD_NUMBER: _ClassVar[int]
    CENTRE_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    CURVES_FIELD_NUMBER: _ClassVar[int]
    agreement: float
    chance_p: float
    centre_agreement: float
    verdict: TrustVerdict
    sentence: str
    curves: Curves
    def __init__(self, agreement: _Optional[float] = ..., chance_p: _Optional[float] = ..., centre_agreement: _Optional[float] = ..., verdict: _Optional[_Union[TrustVerdict, str]] = ..., sentence: _Optional[str] = ..., curves: _Optional[_Union[Curves, _Mapping]] = ...) -> None: ...

class Curves(_message.Message):
    __slots__ = ["insertion", "deletion", "insertion_area", "deletion_area"]
    INSERTION_FIELD_NUMBER: _ClassVar[int]
    DELETION_FIELD_NUMBER: _ClassVar[int]
    INSERTION_AREA_FIELD_NUMBER: _ClassVar[int]
    DELETION_AREA_FIELD_NUMBER: _ClassVar[int]
    insertion: _containers.RepeatedScalarFieldContainer[float]
    deletion: _containers.RepeatedScalarFieldContainer[float]
    insertion_area: float
    deletion_area: float
    def __init__(self, insertion: _Optional[_Iterable[float]] = ..., deletion: _Optional[_Iterable[float]] = ..., insertion_area: _Optional[float] = ..., deletion_area: _Optional[float] = ...) -> None: ...
