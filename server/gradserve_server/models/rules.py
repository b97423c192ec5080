"""Rules of the backward pass, by row: of ReLUs, or of whole networks for layer-wise relevance propagation (LRP)."""

from dataclasses import dataclass
from typing import Literal

ReLURule = Literal["plain", "guided", "deconvnet"]
ConvolutionRule = Literal["z_plus", "gamma", "epsilon"]
InputRule = Literal["same", "flat", "box"]
GAMMA = 0.25  # By how much the gamma rule prefers what agrees with the output.


@dataclass(frozen=True, slots=True)
class Relevance:
    """LRP: which rule convolutions follow, and which one those follow that take the image.

    All other layers follow the rule of their kind, as `relevance/mode.py` tells. The gradient by a tensor is then its
    relevance divided by the tensor itself; with the input rules flat and box the gradient by the network's input is the
    relevance.
    """

    convolution: ConvolutionRule = "z_plus"
    gamma: float = GAMMA  # 0 or more; for the rule gamma alone.
    input: InputRule = "same"


Rule = ReLURule | Relevance
RELU_RULES: tuple[ReLURule, ...] = ("plain", "guided", "deconvnet")
CONVOLUTION_RULES: tuple[ConvolutionRule, ...] = ("z_plus", "gamma", "epsilon")


def place(rule: Rule) -> tuple[int, int, str, float]:
    """Sorts the rows of a batch: relevance first, and its rules apart, then plain, guided and deconvnet.

    So the rows that a rule changes at an operation are always the first or the last ones.
    """
    if isinstance(rule, Relevance):
        return (-1, CONVOLUTION_RULES.index(rule.convolution), rule.input, rule.gamma)
    return (RELU_RULES.index(rule), 0, "", 0.0)
