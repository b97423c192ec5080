"""How an image is made: every setting of Maximize, and the named presets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..parameters import Degrees, Every, OctaveCount, OctaveScale, Rate, Share, Spread, StepCount, Unit, Weight

Start = Literal["noise", "grey", "image"]
ParameterizationName = Literal["pixels", "fourier"]
OptimizerName = Literal["adam", "ascent", "normalized_ascent"]
PresetName = Literal["strong", "lucid", "lecture", "dream", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaximizeSettings:
    """The settings; as they stand here, plain gradient ascent on pixels."""

    start: Start = "noise"
    spread: Spread = 0.01  # The noise's standard deviation, in pixel values or Fourier coefficients.
    parameterization: ParameterizationName = "pixels"
    optimizer: OptimizerName = "adam"
    rate: Rate = 0.05
    steps: StepCount = 256  # Steps of each octave.
    octaves: OctaveCount = 1
    octave_scale: OctaveScale = 1.4
    edge_energy: Weight = 0.0
    total_variation: Weight = 0.0
    l2: Weight = 0.0
    blur_every: Every = 0
    blur_sigma: Spread = 0.5
    clip_every: Every = 0
    clip_pixels: Share = 0.0
    clip_gradients: Share = 0.0
    pad: Unit = 0.0
    jitter: Unit = 0.0
    scale: Share = 0.0
    rotate: Degrees = 0.0
    noise: Spread = 0.0
    stretch: bool = False  # Also return the image drawn as 0.5 + 0.1 * standardised.

    @property
    def total(self) -> int:
        """Steps of all octaves."""
        return self.steps * self.octaves


PRESETS: Mapping[PresetName, Mapping[str, Any]] = {
    "strong": {
        "parameterization": "fourier",
        "total_variation": 2e-3,
        "jitter": 0.125,
        "scale": 0.2,
        "rotate": 15.0,
        "noise": 0.05,
    },
    "lucid": {
        "parameterization": "fourier",
        "steps": 512,
        "pad": 0.09,
        "jitter": 0.06,
        "scale": 0.1,
        "rotate": 10.0,
    },
    "lecture": {"spread": 0.00225, "rate": 0.0225, "steps": 250, "edge_energy": 20.0, "stretch": True},
    "dream": {
        "start": "image",
        "optimizer": "normalized_ascent",
        "rate": 0.01,
        "steps": 10,
        "octaves": 4,
        "jitter": 0.04,
    },
    "plain": {},
}
