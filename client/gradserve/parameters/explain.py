# Generated from explain.proto by protos/parameter_types.py: `make protos` writes it.
"""The names that explain.proto knows, as types."""

from typing import Literal, TypedDict

MapFormat = Literal["float32", "float16", "png"]

Reduce = Literal["sum", "max", "signed"]

SmoothGradStatistic = Literal["mean", "variance", "square"]

Baseline = Literal["black", "mean", "blur", "noise"]

LrpRule = Literal["z_plus", "gamma", "epsilon"]

LrpInputRule = Literal["same", "flat", "box"]

GradientShapBaselines = Literal["mixed", "black", "mean", "blur", "noise"]


class GradientParameters(TypedDict, total=False):
    """Parameters of "gradient"."""

    reduce: Reduce
    log_prob: bool


class GradientXInputParameters(TypedDict, total=False):
    """Parameters of "gradient_x_input"."""

    reduce: Reduce


class SmoothGradParameters(TypedDict, total=False):
    """Parameters of "smooth_grad"."""

    samples: int
    noise: float
    statistic: SmoothGradStatistic
    reduce: Reduce


class IntegratedGradientsParameters(TypedDict, total=False):
    """Parameters of "integrated_gradients"."""

    steps: int
    baseline: Baseline
    reduce: Reduce


class GuidedBackpropParameters(TypedDict, total=False):
    """Parameters of "guided_backprop"."""

    reduce: Reduce


class DeconvnetParameters(TypedDict, total=False):
    """Parameters of "deconvnet"."""

    reduce: Reduce


class GradCamParameters(TypedDict, total=False):
    """Parameters of "grad_cam"."""

    layer: str
    signed: bool


class GuidedGradCamParameters(TypedDict, total=False):
    """Parameters of "guided_grad_cam"."""

    layer: str
    reduce: Reduce


class OcclusionParameters(TypedDict, total=False):
    """Parameters of "occlusion"."""

    patch: float
    stride: float
    value: float


class LayerCamParameters(TypedDict, total=False):
    """Parameters of "layer_cam"."""

    layer: str


class LrpParameters(TypedDict, total=False):
    """Parameters of "lrp"."""

    rule: LrpRule
    gamma: float
    input_rule: LrpInputRule


class RiseParameters(TypedDict, total=False):
    """Parameters of "rise"."""

    samples: int
    grid: int
    keep: float
    baseline: Baseline


class LimeParameters(TypedDict, total=False):
    """Parameters of "lime"."""

    samples: int
    segments: int
    compactness: float
    baseline: Baseline
    kernel_width: float
    ridge: float


class KernelShapParameters(TypedDict, total=False):
    """Parameters of "kernel_shap"."""

    samples: int
    segments: int
    compactness: float
    baseline: Baseline


class GradientShapParameters(TypedDict, total=False):
    """Parameters of "gradient_shap"."""

    samples: int
    baselines: GradientShapBaselines
    noise: float
    reduce: Reduce


ExplainName = Literal[
    "gradient",
    "gradient_x_input",
    "smooth_grad",
    "integrated_gradients",
    "guided_backprop",
    "deconvnet",
    "grad_cam",
    "guided_grad_cam",
    "occlusion",
    "layer_cam",
    "lrp",
    "rise",
    "lime",
    "kernel_shap",
    "gradient_shap",
]


class ExplainParameters(TypedDict, total=False):
    """Parameters of all methods of Explain together."""

    reduce: Reduce
    log_prob: bool
    samples: int
    noise: float
    statistic: SmoothGradStatistic
    steps: int
    baseline: Baseline
    layer: str
    signed: bool
    patch: float
    stride: float
    value: float
    rule: LrpRule
    gamma: float
    input_rule: LrpInputRule
    grid: int
    keep: float
    segments: int
    compactness: float
    kernel_width: float
    ridge: float
    baselines: GradientShapBaselines
