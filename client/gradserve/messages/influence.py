"""Pure functions for Influence, Suspects and Embed: arguments -> request message, reply -> result."""

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict, Unpack

import numpy as np

from gradserve import images
from gradserve.arguments import ImageLike, InfluenceMethodLike, Layout, Options, PhotoOptions, TargetLike
from gradserve.messages import fields, inputs
from gradserve.messages.common import (
    PREPROCESS,
    check_names,
    choice,
    provenance_of,
    region_of,
    request_options,
    set_method,
    target_message,
)
from gradserve.parameters.common import Preprocess
from gradserve.parameters.influence import InfluenceGoal, Pooling, SuspectOrder
from gradserve.results.influence import Features, Influence, Reweighting, Suspects, TrainingExample
from gradserve.v1 import influence_pb2

_ENUMS = influence_pb2.DESCRIPTOR.enum_types_by_name
INFLUENCE_METHOD: Any = influence_pb2.InfluenceMethod.DESCRIPTOR


class InfluenceArguments(PhotoOptions, total=False):
    """What `influence` takes besides the picture and the method."""

    label: TargetLike | None
    goal: InfluenceGoal
    top: int
    what_if: Iterable[Reweighting | Sequence[int]]
    ensemble: Sequence[str]
    thumbnails: bool


class SuspectsArguments(TypedDict, total=False):
    """What `suspects` takes."""

    model: str
    top: int
    order: SuspectOrder
    thumbnails: bool


class EmbedArguments(PhotoOptions, total=False):
    """What `embed` takes besides the picture."""

    layer: str
    pooling: Pooling


# What can be meant by a misspelt argument.
_INFLUENCE = InfluenceArguments.__annotations__.keys() | {"method", "timeout"}
_SUSPECTS = SuspectsArguments.__annotations__.keys() | {"timeout"}
_EMBED = EmbedArguments.__annotations__.keys() | {"timeout"}


def influence_request(
    image: ImageLike,
    method: InfluenceMethodLike = None,
    *,
    label: TargetLike | None = None,
    goal: InfluenceGoal = "loss",
    top: int = 8,
    what_if: Iterable[Reweighting | Sequence[int]] = (),
    ensemble: Sequence[str] = (),
    thumbnails: bool = True,
    model: str = "",
    preprocess: Preprocess = "model_default",
    layout: Layout = "HWC",
    **options: Unpack[Options],
) -> influence_pb2.InfluenceRequest:
    """The arguments of Influence as a message."""
    check_names("influence", options, _INFLUENCE)
    request = influence_pb2.InfluenceRequest(
        model=model,
        image=inputs.message(image, layout),
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        label=None if label is None else target_message(label, layout),
        goal=choice("goal", _ENUMS["InfluenceGoal"], goal),
        top=top,
        thumbnails=thumbnails,
        what_if=[_question(each) for each in what_if],
        ensemble=ensemble,
        options=request_options(**options),
    )
    if method is not None:
        set_method(request.method, method)
    return request


def suspects_request(**arguments: Unpack[SuspectsArguments]) -> influence_pb2.SuspectsRequest:
    """The arguments of Suspects as a message."""
    check_names("suspects", arguments, _SUSPECTS)
    return _suspects_request(**arguments)


def _suspects_request(
    *, model: str = "", top: int = 20, order: SuspectOrder = "rank_sum", thumbnails: bool = True
) -> influence_pb2.SuspectsRequest:
    chosen = choice("order", _ENUMS["SuspectOrder"], order)
    return influence_pb2.SuspectsRequest(model=model, top=top, order=chosen, thumbnails=thumbnails)


def embed_request(
    image: ImageLike,
    *,
    layer: str = "",
    pooling: Pooling = "mean",
    model: str = "",
    preprocess: Preprocess = "model_default",
    layout: Layout = "HWC",
    **options: Unpack[Options],
) -> influence_pb2.EmbedRequest:
    """The arguments of Embed as a message."""
    check_names("embed", options, _EMBED)
    return influence_pb2.EmbedRequest(
        model=model,
        image=inputs.message(image, layout),
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        layer=layer,
        pooling=choice("pooling", _ENUMS["Pooling"], pooling),
        options=request_options(**options),
    )


def influence_result(reply: influence_pb2.InfluenceResponse) -> Influence:
    """The reply of Influence as a result."""
    chosen = reply.method.WhichOneof("method")
    return Influence(
        helpful=tuple(map(_example, reply.helpful)),
        harmful=tuple(map(_example, reply.harmful)),
        what_if=tuple(reply.what_if),
        label=reply.label,
        label_name=reply.label_name,
        probability=reply.probability,
        goal=fields.choice_name(_ENUMS["InfluenceGoal"], reply.goal),
        value=reply.value,
        method=reply.method_name,
        parameters=fields.resolved(getattr(reply.method, chosen)) if chosen else {},
        examples=reply.examples,
        noise_floor=reply.noise_floor,
        coverage=reply.coverage,
        region=region_of(reply.region),
        provenance=provenance_of(reply.provenance),
    )


def suspects_result(reply: influence_pb2.SuspectsResponse) -> Suspects:
    """The reply of Suspects as a result."""
    return Suspects(tuple(map(_example, reply.examples)), reply.total, provenance_of(reply.provenance))


def embed_result(reply: influence_pb2.EmbedResponse) -> Features:
    """The reply of Embed as a result."""
    values = images.array(reply.features).astype(np.float32)
    return Features(values, reply.layer, reply.is_input, region_of(reply.region), provenance_of(reply.provenance))


def _question(what_if: Reweighting | Sequence[int]) -> influence_pb2.Reweighting:
    question = what_if if isinstance(what_if, Reweighting) else Reweighting(what_if)
    try:
        return influence_pb2.Reweighting(rows=[int(row) for row in question.rows], weight=question.weight)
    except (TypeError, ValueError):
        raise ValueError(f"what_if is a list of rows or a Reweighting for each question, not {what_if!r}") from None


def _example(reply: influence_pb2.TrainingExample) -> TrainingExample:
    values = {field.name: getattr(reply, field.name) for field in reply.DESCRIPTOR.fields}
    for name in ("newton_change", "similarity"):
        values[name] = values[name] if reply.HasField(name) else None
    return TrainingExample(**values)
