# Generated from attack.proto by protos/parameter_types.py: `make protos` writes it.
"""The names that attack.proto knows, as types."""

from typing import Literal, TypedDict

Norm = Literal["linf", "l2"]

Loss = Literal["cross_entropy", "margin", "dlr", "probability_margin"]

CorruptionKind = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]


class GradientAscentParameters(TypedDict, total=False):
    """Parameters of "gradient_ascent"."""

    steps: int
    rate: float


class PgdParameters(TypedDict, total=False):
    """Parameters of "pgd"."""

    steps: int
    step: float
    random_start: bool
    restarts: int


class ApgdParameters(TypedDict, total=False):
    """Parameters of "apgd"."""

    steps: int
    rho: float
    restarts: int


class OnePixelParameters(TypedDict, total=False):
    """Parameters of "one_pixel"."""

    pixels: int
    population: int
    generations: int


class SquareParameters(TypedDict, total=False):
    """Parameters of "square"."""

    queries: int
    share: float
    candidates: int


class TransferParameters(TypedDict, total=False):
    """Parameters of "transfer"."""

    surrogate: str
    steps: int
    step: float
    random_start: bool


class FoolingParameters(TypedDict, total=False):
    """Parameters of "fooling"."""

    confidence: float
    population: int
    generations: int
    cells: int


class SphereParameters(TypedDict, total=False):
    """Parameters of "sphere"."""

    points: int
    radius: float


class CorruptionParameters(TypedDict, total=False):
    """Parameters of "corruption"."""

    kind: CorruptionKind
    severity: int


class PatchParameters(TypedDict, total=False):
    """Parameters of "patch"."""

    size: float
    steps: int
    places: int
    rotation: float
    rate: float


class ApgdTargetedParameters(TypedDict, total=False):
    """Parameters of "apgd_targeted"."""

    steps: int
    classes: int
    rho: float


class FabTargetedParameters(TypedDict, total=False):
    """Parameters of "fab_targeted"."""

    steps: int
    classes: int


class EnsembleParameters(TypedDict, total=False):
    """Parameters of "ensemble"."""

    steps: int
    classes: int
    queries: int


class MaltParameters(TypedDict, total=False):
    """Parameters of "malt"."""

    steps: int
    classes: int
    candidates: int
    rho: float


AttackName = Literal[
    "gradient_ascent",
    "fgsm",
    "pgd",
    "apgd",
    "one_pixel",
    "square",
    "transfer",
    "fooling",
    "sphere",
    "corruption",
    "patch",
    "apgd_targeted",
    "fab_targeted",
    "ensemble",
    "malt",
]


class AttackParameters(TypedDict, total=False):
    """Parameters of all methods of Attack together."""

    steps: int
    rate: float
    step: float
    random_start: bool
    restarts: int
    rho: float
    pixels: int
    population: int
    generations: int
    queries: int
    share: float
    candidates: int
    surrogate: str
    confidence: float
    cells: int
    points: int
    radius: float
    kind: CorruptionKind
    severity: int
    size: float
    places: int
    rotation: float
    classes: int


class DefenceJpegParameters(TypedDict, total=False):
    """Parameters of "jpeg"."""

    quality: int


class DefenceBitDepthParameters(TypedDict, total=False):
    """Parameters of "bit_depth"."""

    bits: int


class DefenceBlurParameters(TypedDict, total=False):
    """Parameters of "blur"."""

    sigma: float


class DefenceNoiseParameters(TypedDict, total=False):
    """Parameters of "noise"."""

    std: float


DefenceName = Literal["jpeg", "bit_depth", "blur", "noise"]


class DefenceParameters(TypedDict, total=False):
    """Parameters of all methods of Defence together."""

    quality: int
    bits: int
    sigma: float
    std: float


class Eot(TypedDict, total=False):
    """The fields of Eot."""

    samples: int
    rotation: float
    scale: float
    brightness: float
    noise: float
