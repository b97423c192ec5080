"""Pure functions for Explain: arguments -> request message, reply -> result."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any, Unpack

import numpy as np

from gradserve import images
from gradserve.arguments import (
    ExplainMethodLike,
    ImageLike,
    Layout,
    Options,
    PhotoOptions,
    Rank,
    RegionLike,
    TargetLike,
)
from gradserve.messages import fields, inputs
from gradserve.messages.common import (
    PREPROCESS,
    are_several,
    check_target,
    choice,
    provenance_of,
    real,
    region_of,
    request_options,
    score_region,
    set_method,
    split,
    target_message,
    target_of,
    unread,
)
from gradserve.parameters.common import Preprocess
from gradserve.parameters.explain import ExplainParameters, MapFormat
from gradserve.results.common import Provenance, Region
from gradserve.results.explain import Curves, Explanation, Explanations, MapProgress, Segment, Trust
from gradserve.v1 import common_pb2, explain_pb2

EXPLAIN_METHOD: Any = explain_pb2.ExplainMethod.DESCRIPTOR
_FORMAT = explain_pb2.MapFormat.DESCRIPTOR


class ExplainArguments(PhotoOptions, ExplainParameters, total=False):
    """What `explain` takes beside the picture, the methods and the targets; also the parameters of a single method.

    region: where the scores of the targets are summed, for networks that give a score for each position.
    format: in which maps travel, "float32" (default), "float16" or "png". overlay: also ask the server for a picture.
    segment: also cut out the object that each map lies on.
    trust: judge each map beside chance and the middle of the picture. curves: the same with insertion and deletion.
    until_stable: the relative standard error, above 0 to 1, at which methods that draw samples stop; None: never.
    """

    region: RegionLike | None
    format: MapFormat
    overlay: bool
    segment: bool
    trust: bool
    curves: bool
    until_stable: float | None


_PARAMETERS = ExplainParameters.__annotations__.keys()
_OWN = ExplainArguments.__annotations__.keys() - _PARAMETERS | {"target", "timeout"}


def explain_request(
    image: ImageLike,
    methods: ExplainMethodLike | Sequence[ExplainMethodLike],
    *,
    target: TargetLike | list[Any] | None = None,
    **arguments: Unpack[ExplainArguments],
) -> explain_pb2.ExplainRequest:
    """The arguments of Explain as a message."""
    own, parameters = split("explain", arguments, _OWN, _PARAMETERS)
    if parameters and are_several(methods):
        raise ValueError(f"{', '.join(parameters)}: with a list of methods write Method(name, parameter=value)")
    several: Sequence[Any] = methods if are_several(methods) else [methods]  # type: ignore[assignment]
    messages = [set_method(explain_pb2.ExplainMethod(), each, parameters) for each in several]
    return _request(image, messages, target, **own)


def _request(
    image: ImageLike,
    methods: Sequence[explain_pb2.ExplainMethod],
    target: TargetLike | list[Any] | None,
    *,
    region: RegionLike | None = None,
    model: str = "",
    preprocess: Preprocess = "model_default",
    layout: Layout = "HWC",
    format: MapFormat = "float32",
    overlay: bool = False,
    segment: bool = False,
    trust: bool = False,
    curves: bool = False,
    until_stable: float | None = None,
    **options: Unpack[Options],
) -> explain_pb2.ExplainRequest:
    targets = target if isinstance(target, list) else [] if target is None else [target]
    messages = [target_message(each, layout) for each in targets]
    if region is not None:
        messages = messages or [target_message(Rank(1))]
        for message in messages:
            message.region.CopyFrom(score_region(region, layout))
    return explain_pb2.ExplainRequest(
        model=model,
        image=inputs.message(image, layout),
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        methods=methods,
        targets=messages,
        format=choice("format", _FORMAT, format),
        overlay=overlay,
        segment=segment,
        trust=trust or curves,
        curves=curves,
        until_stable=None if until_stable is None else real("until_stable", until_stable),
        options=request_options(**options),
    )


def explanations(request: explain_pb2.ExplainRequest, reply: explain_pb2.ExplainResponse) -> Explanations:
    """The reply of Explain as results, which keep the picture that was sent.

    Raises Unimplemented where the server has left out a part of a target, and what was to be measured of each map.
    """
    if request.targets:  # For each method there is a map of every target.
        for each, asked in zip(reply.explanations, cycle(request.targets)):
            check_target(asked, each.target, reply.provenance)
    _check_read(request, reply)
    region, provenance = region_of(reply.region), provenance_of(reply.provenance)
    return Explanations(
        [
            explanation_of(each, request.image, region, provenance, _request_of_one(request, each, place))
            for place, each in enumerate(reply.explanations)
        ]
    )


def _check_read(request: explain_pb2.ExplainRequest, reply: explain_pb2.ExplainResponse) -> None:
    """Raises Unimplemented where a server has read past `segment` or `trust`: it says why where it has none."""
    for field, code in (("segment", "NO_SEGMENT"), ("trust", "NOT_JUDGED")):
        for each in reply.explanations if getattr(request, field) else ():
            if not each.HasField(field) and not any(text.startswith(code) for text in each.warnings):
                raise unread(f"knows no {field}", "it left it out", reply.provenance)


def _request_of_one(
    request: explain_pb2.ExplainRequest, each: explain_pb2.Explanation, place: int
) -> explain_pb2.ExplainRequest:
    """The request of one map alone, without its picture; ranks and defaults are those that the reply tells.

    `until_stable` is refused for methods that draw no samples; those that do tell their standard error.
    """
    alone = explain_pb2.ExplainRequest(
        model=request.model,
        preprocess=request.preprocess,
        methods=[each.method],
        format=request.format,
        segment=request.segment,
        options=request.options,
    )
    asked = request.targets[place % len(request.targets)] if request.targets else None
    if request.HasField("until_stable") and each.HasField("standard_error"):
        alone.until_stable = request.until_stable
    alone.targets.append(asked if asked is not None and asked.HasField("similarity") else each.target)
    return alone


def explain_event(request: explain_pb2.ExplainRequest, event: explain_pb2.ExplainEvent) -> MapProgress | Explanations:
    """What StreamExplain sends: maps on the way, and in the end the result."""
    if event.HasField("result"):
        return explanations(request, event.result)
    message = event.progress
    nowhere = provenance_of(common_pb2.Provenance())
    explanation = explanation_of(message.explanation, request.image, region_of(message.region), nowhere)
    return MapProgress(message.index, explanation, message.finished)


def explanation_of(
    each: explain_pb2.Explanation,
    image: common_pb2.Image,
    region: Region,
    provenance: Provenance,
    request: explain_pb2.ExplainRequest | None = None,
) -> Explanation:
    """One map as a result, with the request of it alone where there is one."""
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
        standard_error=each.standard_error if each.HasField("standard_error") else None,
        warnings=tuple(each.warnings),
        trust=trust_of(each.trust) if each.HasField("trust") else None,
        region=region,
        provenance=provenance,
        served_overlay=each.overlay or None,
        image=image,
        request=request,
        segment=_segment(each.segment) if each.HasField("segment") else None,
    )


def _segment(message: explain_pb2.Segment) -> Segment:
    box = message.box
    return Segment(
        mask=images.mask(message.mask),
        outline=tuple(zip(message.outline[::2], message.outline[1::2], strict=True)),
        box=(box.x0, box.y0, box.x1, box.y1),
        share=message.share,
    )


def trust_of(message: explain_pb2.Trust) -> Trust:
    """How far to trust a map, as a result."""
    verdict = fields.choice_name(explain_pb2.TrustVerdict.DESCRIPTOR, message.verdict)
    curves = None
    if message.HasField("curves"):
        each = message.curves
        curves = Curves(tuple(each.insertion), tuple(each.deletion), each.insertion_area, each.deletion_area)
    figures = (message.agreement, message.chance_p, message.centre_agreement)
    return Trust(*figures, verdict=verdict, sentence=message.sentence, curves=curves)


def _map(each: explain_pb2.Explanation) -> images.Array:
    if each.WhichOneof("map") == "png":
        return images.map_from_png(each.png, each.low, each.high)
    return _numbers(each.raw)


def _numbers(tensor: common_pb2.Tensor) -> images.Array:
    return images.array(tensor).astype(np.float32)
