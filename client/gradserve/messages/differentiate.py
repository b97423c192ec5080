"""Pure functions for Differentiate: arguments -> request message, reply -> result."""

from typing import Any, Unpack

import numpy as np

from gradserve import images
from gradserve.arguments import BatchLike, Layout, Options, PhotoOptions
from gradserve.messages import inputs
from gradserve.messages.common import PREPROCESS, check_names, choice, provenance_of, region_of, request_options
from gradserve.messages.goals import GoalLike, goal_message
from gradserve.parameters.common import Preprocess
from gradserve.parameters.differentiate import BackwardRule, GradientFormat
from gradserve.results.differentiate import Gradients
from gradserve.v1 import common_pb2, differentiate_pb2

RULE, FORMAT = (differentiate_pb2.DESCRIPTOR.enum_types_by_name[name] for name in ("BackwardRule", "GradientFormat"))


class DifferentiateArguments(PhotoOptions, total=False):
    """What `differentiate` takes besides the pictures and the goals."""

    layer: str
    rule: BackwardRule
    format: GradientFormat
    forward_only: bool


_OWN = DifferentiateArguments.__annotations__.keys() | {"goals", "timeout"}  # What a misspelt argument can mean.


def differentiate_request(
    pictures: BatchLike,
    goals: GoalLike | list[Any] | None = None,
    *,
    layer: str = "",
    rule: BackwardRule = "plain",
    format: GradientFormat = "float32",
    forward_only: bool = False,
    model: str = "",
    preprocess: Preprocess = "as_is",
    layout: Layout = "HWC",
    **options: Unpack[Options],
) -> differentiate_pb2.DifferentiateRequest:
    """The arguments of Differentiate as a message."""
    check_names("differentiate", options, _OWN)
    several = goals if isinstance(goals, list) else [] if goals is None else [goals]
    request = differentiate_pb2.DifferentiateRequest(
        model=model,
        images=[inputs.message(each, layout) for each in inputs.batch(pictures)],
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        goals=[goal_message(each, layout) for each in several],
        layer=layer,
        forward_only=forward_only,
        options=request_options(**options),
    )
    if rule != "plain":  # Defaults are left out, since beside forward_only the server allows neither field.
        request.rule = choice("rule", RULE, rule)
    if format != "float32":
        request.format = choice("format", FORMAT, format)
    return request


def gradients(reply: differentiate_pb2.DifferentiateResponse) -> Gradients:
    """The reply of Differentiate as a result; scales are multiplied into the gradient."""
    return Gradients(
        values=np.array(reply.values),
        logits=images.numbers(reply.logits) if reply.HasField("logits") else None,
        gradient=_gradient(reply) if reply.HasField("gradient") else None,
        regions=tuple(map(region_of, reply.regions)),
        provenance=provenance_of(reply.provenance),
    )


def _gradient(reply: differentiate_pb2.DifferentiateResponse) -> images.Array:
    values = images.numbers(reply.gradient)
    if reply.gradient.dtype == common_pb2.DTYPE_FLOAT16 and reply.scales:
        values *= np.array(reply.scales, np.float32).reshape(-1, *[1] * (values.ndim - 1))
    return values
