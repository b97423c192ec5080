# Generated from stylize.proto by protos/parameter_types.py: `make protos` writes it.
"""The names that stylize.proto knows, as types."""

from typing import Literal, TypedDict

from gradserve.parameters.progress import Optimizer

StylizeStart = Literal["content", "noise"]


class StylizeSettings(TypedDict, total=False):
    """The fields of StylizeSettings."""

    start: StylizeStart
    optimizer: Optimizer
    rate: float
    steps: int
    coarse_steps: int
    style_weight: float
    content_weight: float
    total_variation: float
    pad: float
    keep_colours: bool
