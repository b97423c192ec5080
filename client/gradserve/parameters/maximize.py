# Generated from maximize.proto by protos/parameter_types.py: `make protos` writes it.
"""The names that maximize.proto knows, as types."""

from typing import Literal, TypedDict

from gradserve.parameters.progress import Optimizer

MaximizePreset = Literal["strong", "lucid", "lecture", "dream", "plain"]

Start = Literal["noise", "grey", "image"]

Parameterization = Literal["pixels", "fourier"]


class MaximizeSettings(TypedDict, total=False):
    """The fields of MaximizeSettings."""

    start: Start
    spread: float
    parameterization: Parameterization
    optimizer: Optimizer
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
