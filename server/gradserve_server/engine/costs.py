"""What a row costs."""

from collections.abc import Mapping

from ..models.rules import ConvolutionRule, Relevance, Rule

GRADIENT_COST = 3  # Cost of a pass forward and backward to the image, in forward passes.
# Cost of a row of relevance, in rows with the plain gradient: what mobilenet_v2 takes, the dearest network measured.
RELEVANCE_COSTS: Mapping[ConvolutionRule, int] = {"epsilon": 2, "z_plus": 4, "gamma": 7}


def rule_cost(rule: Rule | None) -> int:
    """The cost of a row with that backward rule, in rows with the plain gradient."""
    return RELEVANCE_COSTS[rule.convolution] if isinstance(rule, Relevance) else 1


def passes_cost(forward: float, wrt: str) -> float:
    """The cost of a row, in the unit of `forward`, which is what its forward pass costs."""
    return forward * (GRADIENT_COST if wrt == "image" else 1)
