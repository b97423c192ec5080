from gradserve.v1 import common_pb2 as _common_pb2
from gradserve.v1 import explain_pb2 as _explain_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CorruptionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    CORRUPTION_KIND_UNSPECIFIED: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_GAUSSIAN_NOISE: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_SHOT_NOISE: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_IMPULSE_NOISE: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_DEFOCUS_BLUR: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_GLASS_BLUR: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_MOTION_BLUR: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_ZOOM_BLUR: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_SNOW: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_FROST: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_FOG: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_BRIGHTNESS: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_CONTRAST: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_ELASTIC_TRANSFORM: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_PIXELATE: _ClassVar[CorruptionKind]
    CORRUPTION_KIND_JPEG_COMPRESSION: _ClassVar[CorruptionKind]

class Pick(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    PICK_UNSPECIFIED: _ClassVar[Pick]
    PICK_RUNNER_UP: _ClassVar[Pick]
    PICK_LEAST_LIKELY: _ClassVar[Pick]
    PICK_RANDOM: _ClassVar[Pick]

class Loss(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    LOSS_UNSPECIFIED: _ClassVar[Loss]
    LOSS_CROSS_ENTROPY: _ClassVar[Loss]
    LOSS_MARGIN: _ClassVar[Loss]
    LOSS_DLR: _ClassVar[Loss]
    LOSS_PROBABILITY_MARGIN: _ClassVar[Loss]

class Norm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    NORM_UNSPECIFIED: _ClassVar[Norm]
    NORM_LINF: _ClassVar[Norm]
    NORM_L2: _ClassVar[Norm]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_FOUND: _ClassVar[Verdict]
    VERDICT_NOT_FOUND: _ClassVar[Verdict]
    VERDICT_ALREADY_MISCLASSIFIED: _ClassVar[Verdict]
    VERDICT_LOST_IN_ENCODING: _ClassVar[Verdict]
CORRUPTION_KIND_UNSPECIFIED: CorruptionKind
CORRUPTION_KIND_GAUSSIAN_NOISE: CorruptionKind
CORRUPTION_KIND_SHOT_NOISE: CorruptionKind
CORRUPTION_KIND_IMPULSE_NOISE: CorruptionKind
CORRUPTION_KIND_DEFOCUS_BLUR: CorruptionKind
CORRUPTION_KIND_GLASS_BLUR: CorruptionKind
CORRUPTION_KIND_MOTION_BLUR: CorruptionKind
CORRUPTION_KIND_ZOOM_BLUR: CorruptionKind
CORRUPTION_KIND_SNOW: CorruptionKind
CORRUPTION_KIND_FROST: CorruptionKind
CORRUPTION_KIND_FOG: CorruptionKind
CORRUPTION_KIND_BRIGHTNESS: CorruptionKind
CORRUPTION_KIND_CONTRAST: CorruptionKind
CORRUPTION_KIND_ELASTIC_TRANSFORM: CorruptionKind
CORRUPTION_KIND_PIXELATE: CorruptionKind
CORRUPTION_KIND_JPEG_COMPRESSION: CorruptionKind
PICK_UNSPECIFIED: Pick
PICK_RUNNER_UP: Pick
PICK_LEAST_LIKELY: Pick
PICK_RANDOM: Pick
LOSS_UNSPECIFIED: Loss
LOSS_CROSS_ENTROPY: Loss
LOSS_MARGIN: Loss
LOSS_DLR: Loss
LOSS_PROBABILITY_MARGIN: Loss
NORM_UNSPECIFIED: Norm
NORM_LINF: Norm
NORM_L2: Norm
VERDICT_UNSPECIFIED: Verdict
VERDICT_FOUND: Verdict
VERDICT_NOT_FOUND: Verdict
VERDICT_ALREADY_MISCLASSIFIED: Verdict
VERDICT_LOST_IN_ENCODING: Verdict

class AttackRequest(_message.Message):
    __slots__ = ["model", "image", "preprocess", "method", "label", "target", "loss", "norm", "eps", "defence", "adaptive", "eot", "first_success", "trajectory", "perturbation", "maps", "options", "maps_format", "maps_target", "score_region", "mask"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    DEFENCE_FIELD_NUMBER: _ClassVar[int]
    ADAPTIVE_FIELD_NUMBER: _ClassVar[int]
    EOT_FIELD_NUMBER: _ClassVar[int]
    FIRST_SUCCESS_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    PERTURBATION_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    MAPS_FORMAT_FIELD_NUMBER: _ClassVar[int]
    MAPS_TARGET_FIELD_NUMBER: _ClassVar[int]
    SCORE_REGION_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: _common_pb2.Image
    preprocess: _common_pb2.Preprocess
    method: AttackMethod
    label: _common_pb2.Target
    target: AttackTarget
    loss: Loss
    norm: Norm
    eps: float
    defence: Defence
    adaptive: bool
    eot: Eot
    first_success: bool
    trajectory: bool
    perturbation: bool
    maps: _explain_pb2.ExplainMethod
    options: _common_pb2.RequestOptions
    maps_format: _explain_pb2.MapFormat
    maps_target: _common_pb2.Target
    score_region: _common_pb2.ScoreRegion
    mask: AttackMask
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[_common_pb2.Image, _Mapping]] = ..., preprocess: _Optional[_Union[_common_pb2.Preprocess, str]] = ..., method: _Optional[_Union[AttackMethod, _Mapping]] = ..., label: _Optional[_Union[_common_pb2.Target, _Mapping]] = ..., target: _Optional[_Union[AttackTarget, _Mapping]] = ..., loss: _Optional[_Union[Loss, str]] = ..., norm: _Optional[_Union[Norm, str]] = ..., eps: _Optional[float] = ..., defence: _Optional[_Union[Defence, _Mapping]] = ..., adaptive: bool = ..., eot: _Optional[_Union[Eot, _Mapping]] = ..., first_success: bool = ..., trajectory: bool = ..., perturbation: bool = ..., maps: _Optional[_Union[_explain_pb2.ExplainMethod, _Mapping]] = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ..., maps_format: _Optional[_Union[_explain_pb2.MapFormat, str]] = ..., maps_target: _Optional[_Union[_common_pb2.Target, _Mapping]] = ..., score_region: _Optional[_Union[_common_pb2.ScoreRegion, _Mapping]] = ..., mask: _Optional[_Union[AttackMask, _Mapping]] = ...) -> None: ...

class AttackMask(_message.Message):
    __slots__ = ["box", "picture"]
    BOX_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    box: _common_pb2.Box
    picture: _common_pb2.Image
    def __init__(self, box: _Optional[_Union[_common_pb2.Box, _Mapping]] = ..., picture: _Optional[_Union[_common_pb2.Image, _Mapping]] = ...) -> None: ...

class AttackMethod(_message.Message):
    __slots__ = ["gradient_ascent", "fgsm", "pgd", "apgd", "one_pixel", "square", "transfer", "fooling", "sphere", "corruption", "patch", "apgd_targeted", "fab_targeted", "ensemble", "malt"]
    GRADIENT_ASCENT_FIELD_NUMBER: _ClassVar[int]
    FGSM_FIELD_NUMBER: _ClassVar[int]
    PGD_FIELD_NUMBER: _ClassVar[int]
    APGD_FIELD_NUMBER: _ClassVar[int]
    ONE_PIXEL_FIELD_NUMBER: _ClassVar[int]
    SQUARE_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    FOOLING_FIELD_NUMBER: _ClassVar[int]
    SPHERE_FIELD_NUMBER: _ClassVar[int]
    CORRUPTION_FIELD_NUMBER: _ClassVar[int]
    PATCH_FIELD_NUMBER: _ClassVar[int]
    APGD_TARGETED_FIELD_NUMBER: _ClassVar[int]
    FAB_TARGETED_FIELD_NUMBER: _ClassVar[int]
    ENSEMBLE_FIELD_NUMBER: _ClassVar[int]
    MALT_FIELD_NUMBER: _ClassVar[int]
    gradient_ascent: GradientAscent
    fgsm: Fgsm
    pgd: Pgd
    apgd: Apgd
    one_pixel: OnePixel
    square: Square
    transfer: Transfer
    fooling: Fooling
    sphere: Sphere
    corruption: Corruption
    patch: Patch
    apgd_targeted: ApgdTargeted
    fab_targeted: FabTargeted
    ensemble: Ensemble
    malt: Malt
    def __init__(self, gradient_ascent: _Optional[_Union[GradientAscent, _Mapping]] = ..., fgsm: _Optional[_Union[Fgsm, _Mapping]] = ..., pgd: _Optional[_Union[Pgd, _Mapping]] = ..., apgd: _Optional[_Union[Apgd, _Mapping]] = ..., one_pixel: _Optional[_Union[OnePixel, _Mapping]] = ..., square: _Optional[_Union[Square, _Mapping]] = ..., transfer: _Optional[_Union[Transfer, _Mapping]] = ..., fooling: _Optional[_Union[Fooling, _Mapping]] = ..., sphere: _Optional[_Union[Sphere, _Mapping]] = ..., corruption: _Optional[_Union[Corruption, _Mapping]] = ..., patch: _Optional[_Union[Patch, _Mapping]] = ..., apgd_targeted: _Optional[_Union[ApgdTargeted, _Mapping]] = ..., fab_targeted: _Optional[_Union[FabTargeted, _Mapping]] = ..., ensemble: _Optional[_Union[Ensemble, _Mapping]] = ..., malt: _Optional[_Union[Malt, _Mapping]] = ...) -> None: ...

class GradientAscent(_message.Message):
    __slots__ = ["steps", "rate"]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    steps: int
    rate: float
    def __init__(self, steps: _Optional[int] = ..., rate: _Optional[float] = ...) -> None: ...

class Fgsm(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class Pgd(_message.Message):
    __slots__ = ["steps", "step", "random_start", "restarts"]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RANDOM_START_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    steps: int
    step: float
    random_start: bool
    restarts: int
    def __init__(self, steps: _Optional[int] = ..., step: _Optional[float] = ..., random_start: bool = ..., restarts: _Optional[int] = ...) -> None: ...

class Apgd(_message.Message):
    __slots__ = ["steps", "rho", "restarts"]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    RHO_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    steps: int
    rho: float
    restarts: int
    def __init__(self, steps: _Optional[int] = ..., rho: _Optional[float] = ..., restarts: _Optional[int] = ...) -> None: ...

class OnePixel(_message.Message):
    __slots__ = ["pixels", "population", "generations"]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    pixels: int
    population: int
    generations: int
    def __init__(self, pixels: _Optional[int] = ..., population: _Optional[int] = ..., generations: _Optional[int] = ...) -> None: ...

class ApgdTargeted(_message.Message):
    __slots__ = ["steps", "classes", "rho"]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    RHO_FIELD_NUMBER: _ClassVar[int]
    steps: int
    classes: int
    rho: float
    def __init__(self, steps: _Optional[int] = ..., classes: _Optional[int] = ..., rho: _Optional[float] = ...) -> None: ...

class FabTargeted(_message.Message):
    __slots__ = ["steps", "classes"]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    steps: int
    classes: int
    def __init__(self, steps: _Optional[int] = ..., classes: _Optional[int] = ...) -> None: ...

class Ensemble(_message.Message):
    __slots__ = ["steps", "classes", "queries"]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    steps: int
    classes: int
    queries: int
    def __init__(self, steps: _Optional[int] = ..., classes: _Optional[int] = ..., queries: _Optional[int] = ...) -> None: ...

class Malt(_message.Message):
    __slots__ = ["steps", "classes", "candidates", "rho"]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    RHO_FIELD_NUMBER: _ClassVar[int]
    steps: int
    classes: int
    candidates: int
    rho: float
    def __init__(self, steps: _Optional[int] = ..., classes: _Optional[int] = ..., candidates: _Optional[int] = ..., rho: _Optional[float] = ...) -> None: ...

class Square(_message.Message):
    __slots__ = ["queries", "share", "candidates"]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    queries: int
    share: float
    candidates: int
    def __init__(self, queries: _Optional[int] = ..., share: _Optional[float] = ..., candidates: _Optional[int] = ...) -> None: ...

class Transfer(_message.Message):
    __slots__ = ["surrogate", "steps", "step", "random_start"]
    SURROGATE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RANDOM_START_FIELD_NUMBER: _ClassVar[int]
    surrogate: str
    steps: int
    step: float
    random_start: bool
    def __init__(self, surrogate: _Optional[str] = ..., steps: _Optional[int] = ..., step: _Optional[float] = ..., random_start: bool = ...) -> None: ...

class Fooling(_message.Message):
    __slots__ = ["confidence", "population", "generations", "cells"]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    confidence: float
    population: int
    generations: int
    cells: int
    def __init__(self, confidence: _Optional[float] = ..., population: _Optional[int] = ..., generations: _Optional[int] = ..., cells: _Optional[int] = ...) -> None: ...

class Sphere(_message.Message):
    __slots__ = ["points", "radius"]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    RADIUS_FIELD_NUMBER: _ClassVar[int]
    points: int
    radius: float
    def __init__(self, points: _Optional[int] = ..., radius: _Optional[float] = ...) -> None: ...

class Corruption(_message.Message):
    __slots__ = ["kind", "severity"]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    kind: CorruptionKind
    severity: int
    def __init__(self, kind: _Optional[_Union[CorruptionKind, str]] = ..., severity: _Optional[int] = ...) -> None: ...

class Patch(_message.Message):
    __slots__ = ["size", "steps", "places", "rotation", "rate"]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    ROTATION_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    size: float
    steps: int
    places: int
    rotation: float
    rate: float
    def __init__(self, size: _Optional[float] = ..., steps: _Optional[int] = ..., places: _Optional[int] = ..., rotation: _Optional[float] = ..., rate: _Optional[float] = ...) -> None: ...

class AttackTarget(_message.Message):
    __slots__ = ["class_index", "class_name", "pick"]
    CLASS_INDEX_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    PICK_FIELD_NUMBER: _ClassVar[int]
    class_index: int
    class_name: str
    pick: Pick
    def __init__(self, class_index: _Optional[int] = ..., class_name: _Optional[str] = ..., pick: _Optional[_Union[Pick, str]] = ...) -> None: ...

class Defence(_message.Message):
    __slots__ = ["jpeg", "bit_depth", "blur", "noise"]
    JPEG_FIELD_NUMBER: _ClassVar[int]
    BIT_DEPTH_FIELD_NUMBER: _ClassVar[int]
    BLUR_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    jpeg: DefenceJpeg
    bit_depth: DefenceBitDepth
    blur: DefenceBlur
    noise: DefenceNoise
    def __init__(self, jpeg: _Optional[_Union[DefenceJpeg, _Mapping]] = ..., bit_depth: _Optional[_Union[DefenceBitDepth, _Mapping]] = ..., blur: _Optional[_Union[DefenceBlur, _Mapping]] = ..., noise: _Optional[_Union[DefenceNoise, _Mapping]] = ...) -> None: ...

class DefenceJpeg(_message.Message):
    __slots__ = ["quality"]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    quality: int
    def __init__(self, quality: _Optional[int] = ...) -> None: ...

class DefenceBitDepth(_message.Message):
    __slots__ = ["bits"]
    BITS_FIELD_NUMBER: _ClassVar[int]
    bits: int
    def __init__(self, bits: _Optional[int] = ...) -> None: ...

class DefenceBlur(_message.Message):
    __slots__ = ["sigma"]
    SIGMA_FIELD_NUMBER: _ClassVar[int]
    sigma: float
    def __init__(self, sigma: _Optional[float] = ...) -> None: ...

class DefenceNoise(_message.Message):
    __slots__ = ["std"]
    STD_FIELD_NUMBER: _ClassVar[int]
    std: float
    def __init__(self, std: _Optional[float] = ...) -> None: ...

class Eot(_message.Message):
    __slots__ = ["samples", "rotation", "scale", "brightness", "noise"]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    ROTATION_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    BRIGHTNESS_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    samples: int
    rotation: float
    scale: float
    brightness: float
    noise: float
    def __init__(self, samples: _Optional[int] = ..., rotation: _Optional[float] = ..., scale: _Optional[float] = ..., brightness: _Optional[float] = ..., noise: _Optional[float] = ...) -> None: ...

class AttackResponse(_message.Message):
    __slots__ = ["adversarial", "perturbation", "magnification", "certificate", "trajectory", "method", "method_name", "loss", "map_before", "map_after", "patch", "success_rate", "asked", "done", "region", "provenance", "stages"]
    ADVERSARIAL_FIELD_NUMBER: _ClassVar[int]
    PERTURBATION_FIELD_NUMBER: _ClassVar[int]
    MAGNIFICATION_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    METHOD_NAME_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    MAP_BEFORE_FIELD_NUMBER: _ClassVar[int]
    MAP_AFTER_FIELD_NUMBER: _ClassVar[int]
    PATCH_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_RATE_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    adversarial: bytes
    perturbation: bytes
    magnification: float
    certificate: Certificate
    trajectory: _containers.RepeatedCompositeFieldContainer[TrajectoryStep]
    method: AttackMethod
    method_name: str
    loss: Loss
    map_before: _explain_pb2.Explanation
    map_after: _explain_pb2.Explanation
    patch: bytes
    success_rate: float
    asked: int
    done: int
    region: _common_pb2.Region
    provenance: _common_pb2.Provenance
    stages: _containers.RepeatedCompositeFieldContainer[AttackStage]
    def __init__(self, adversarial: _Optional[bytes] = ..., perturbation: _Optional[bytes] = ..., magnification: _Optional[float] = ..., certificate: _Optional[_Union[Certificate, _Mapping]] = ..., trajectory: _Optional[_Iterable[_Union[TrajectoryStep, _Mapping]]] = ..., method: _Optional[_Union[AttackMethod, _Mapping]] = ..., method_name: _Optional[str] = ..., loss: _Optional[_Union[Loss, str]] = ..., map_before: _Optional[_Union[_explain_pb2.Explanation, _Mapping]] = ..., map_after: _Optional[_Union[_explain_pb2.Explanation, _Mapping]] = ..., patch: _Optional[bytes] = ..., success_rate: _Optional[float] = ..., asked: _Optional[int] = ..., done: _Optional[int] = ..., region: _Optional[_Union[_common_pb2.Region, _Mapping]] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ..., stages: _Optional[_Iterable[_Union[AttackStage, _Mapping]]] = ...) -> None: ...

class AttackStage(_message.Message):
    __slots__ = ["method", "reached", "queries", "gradients"]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REACHED_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    method: str
    reached: bool
    queries: int
    gradients: int
    def __init__(self, method: _Optional[str] = ..., reached: bool = ..., queries: _Optional[int] = ..., gradients: _Optional[int] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ["verdict", "label", "label_name", "target", "target_name", "before", "after", "undefended", "l0", "l2", "linf", "norm", "eps", "within_budget", "queries", "gradients", "first_success", "warnings", "mask_pixels"]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TARGET_NAME_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    UNDEFENDED_FIELD_NUMBER: _ClassVar[int]
    L0_FIELD_NUMBER: _ClassVar[int]
    L2_FIELD_NUMBER: _ClassVar[int]
    LINF_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    EPS_FIELD_NUMBER: _ClassVar[int]
    WITHIN_BUDGET_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_SUCCESS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    MASK_PIXELS_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    label: int
    label_name: str
    target: int
    target_name: str
    before: Judgement
    after: Judgement
    undefended: Judgement
    l0: int
    l2: float
    linf: float
    norm: Norm
    eps: float
    within_budget: bool
    queries: int
    gradients: int
    first_success: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    mask_pixels: int
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., label: _Optional[int] = ..., label_name: _Optional[str] = ..., target: _Optional[int] = ..., target_name: _Optional[str] = ..., before: _Optional[_Union[Judgement, _Mapping]] = ..., after: _Optional[_Union[Judgement, _Mapping]] = ..., undefended: _Optional[_Union[Judgement, _Mapping]] = ..., l0: _Optional[int] = ..., l2: _Optional[float] = ..., linf: _Optional[float] = ..., norm: _Optional[_Union[Norm, str]] = ..., eps: _Optional[float] = ..., within_budget: bool = ..., queries: _Optional[int] = ..., gradients: _Optional[int] = ..., first_success: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., mask_pixels: _Optional[int] = ...) -> None: ...

class Judgement(_message.Message):
    __slots__ = ["predicted", "label", "margin", "target"]
    PREDICTED_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    predicted: _common_pb2.Score
    label: _common_pb2.Score
    margin: float
    target: _common_pb2.Score
    def __init__(self, predicted: _Optional[_Union[_common_pb2.Score, _Mapping]] = ..., label: _Optional[_Union[_common_pb2.Score, _Mapping]] = ..., margin: _Optional[float] = ..., target: _Optional[_Union[_common_pb2.Score, _Mapping]] = ...) -> None: ...

class TrajectoryStep(_message.Message):
    __slots__ = ["step", "predicted", "margin", "loss"]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    step: int
    predicted: _common_pb2.Score
    margin: float
    loss: float
    def __init__(self, step: _Optional[int] = ..., predicted: _Optional[_Union[_common_pb2.Score, _Mapping]] = ..., margin: _Optional[float] = ..., loss: _Optional[float] = ...) -> None: ...
