"""Layer-wise relevance propagation."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...engine.job import MethodContext, Steps
from ...engine.objective import Objective
from ...engine.query import Query
from ...models.rules import GAMMA, ConvolutionRule, InputRule, Relevance
from ..parameters import Gamma
from .maps import Map


def lrp(
    x: Tensor,
    target: Objective,
    run: MethodContext,
    *,
    rule: ConvolutionRule = "z_plus",
    gamma: Gamma = GAMMA,
    input_rule: InputRule = "same",
) -> Steps:
    """The target shared out among the pixels, layer by layer (Bach et al. 2015). [1, 3, H, W] -> Map.

    `rule` is that of convolutions; the other layers follow that of their kind, in transformers by AttnLRP (Achtibat et
    al. 2024). With `input_rule` same the map is signed, and a pixel of the model's mean colour has no relevance.
    """
    answer = yield Query(x, target, "image", rule=Relevance(rule, gamma, input_rule))
    run.completed(range(1))
    return Map(answer.relevance[0].sum(0), answer.value[0])


def relevance(parameters: Mapping[str, Any]) -> Relevance:
    """The backward rule that these parameters of `lrp` mean."""
    return Relevance(parameters["rule"], parameters["gamma"], parameters["input_rule"])
