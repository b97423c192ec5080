"""Pure functions for Explain: arguments -> request message, reply -> result."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradserve import images
from gradserve.arguments import ImageLike, MethodLike, Options, ParameterValue, Rank, RegionLike, TargetLike
from gradserve.messages import fields
from gradserve.messages.common import (
    PREPROCESS,
    choice,
    provenance_of,
    region_of,
    request_options,
    score_region,
    set_method,
    target_message,
    target_of,
)
from gradserve.results.common import Provenance, Region
from gradserve.results.explain import Explanation, Explanations
from gradserve.v1 import common_pb2, explain_pb2

EXPLAIN_METHOD: Any = explain_pb2.ExplainMethod.DESCRIPTOR
_FORMAT = explain_pb2.MapFormat.DESCRIPTOR


def explain_request(
    image: ImageLike,
    methods: MethodLike | list[Any],
    *,
    target: TargetLike | list[Any] | None = None,
    region: RegionLike | None = None,
    model: str = "",
    preprocess: str = "model_default",
    format: str = "float32",
    overlay: bool = False,
    shorthand: Mapping[str, ParameterValue],
    options: Options,
) -> explain_pb2.ExplainRequest:
    """The arguments of Explain as a message; shorthand are the parameters of the one method that is asked for."""
    if shorthand and isinstance(methods, list):
        raise ValueError(f"{', '.join(shorthand)}: with a list of methods write Method(name, parameter=value)")
    targets = target if isinstance(target, list) else [] if target is None else [target]
    messages = [target_message(each) for each in targets]
    if region is not None:
        messages = messages or [target_message(Rank(1))]
        for message in messages:
            message.region.CopyFrom(score_region(region))
    return explain_pb2.ExplainRequest(
        model=model,
        image=images.message(image),
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        methods=[
            set_method(explain_pb2.ExplainMethod(), each, shorthand)
            for each in (methods if isinstance(methods, list) else [methods])
        ],
        targets=messages,
        format=choice("format", _FORMAT, format),
        overlay=overlay,
        options=request_options(**options),
    )


def explanations(request: explain_pb2.ExplainRequest, reply: explain_pb2.ExplainResponse) -> Explanations:
    """The reply of Explain as results, which keep the picture that was sent."""
    region, provenance = region_of(reply.region), provenance_of(reply.provenance)
    return Explanations([explanation_of(each, request.image, region, provenance) for each in reply.explanations])


def explanation_of(
    each: explain_pb2.Explanation, image: common_pb2.Image, region: Region, provenance: Provenance
) -> Explanation:
    """One map as a result."""
    chosen = each.method.WhichOneof("method")
    return Explanation(
        map=_map(each),
        method=each.method_name or chosen or "",
        parameters=fields.resolved(getattr(each.method, chosen)) if chosen else {},
        target=target_of(each.target),
        target_name=each.target_name,
        target_value=each.target_value,
        coarse=_numbers(each.coarse) if each.HasField("coarse") else None,
        completeness_gap=each.completeness_gap if each.HasField("completeness_gap") else None,
        asked=each.asked,
        done=each.done,
        completed_fraction=each.completed_fraction,
        warnings=tuple(each.warnings),
        region=region,
        provenance=provenance,
        served_overlay=each.overlay or None,
        image=image,
    )


def _map(each: explain_pb2.Explanation) -> images.Array:
    if each.WhichOneof("map") == "png":
        return images.map_from_png(each.png, each.low, each.high)
    return _numbers(each.raw)


def _numbers(tensor: common_pb2.Tensor) -> images.Array:
    return images.array(tensor).astype(np.float32)
