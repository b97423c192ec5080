"""Pure functions: arguments -> request message, reply -> result. Both clients use them; nothing here does I/O,
except that an image given by its path is read.
"""

from collections.abc import Mapping
from datetime import timedelta
from numbers import Integral
from types import MappingProxyType
from typing import Any, Unpack

import numpy as np

from gradserve import images
from gradserve.arguments import ImageLike, Method, MethodLike, Options, ParameterValue, Rank, TargetLike, Unit
from gradserve.messages import fields
from gradserve.results.common import Explanation, Explanations, Prediction, Provenance, Region, Score
from gradserve.results.models import Applicability, Layer, ModelCard
from gradserve.v1 import common_pb2, explain_pb2, models_pb2, predict_pb2

PREPROCESS = common_pb2.Preprocess.DESCRIPTOR
_PRIORITY = common_pb2.Priority.DESCRIPTOR
_PRECISION = common_pb2.Precision.DESCRIPTOR
_FORMAT = explain_pb2.MapFormat.DESCRIPTOR
_HEAD = models_pb2.Head.DESCRIPTOR
EXPLAIN_METHOD: Any = explain_pb2.ExplainMethod.DESCRIPTOR


def predict_request(
    image: ImageLike, *, model: str = "", top_k: int = 5, preprocess: str = "model_default", **options: Unpack[Options]
) -> predict_pb2.PredictRequest:
    """The arguments of Predict as a message."""
    return predict_pb2.PredictRequest(
        model=model,
        image=images.message(image),
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        top_k=count("top_k", top_k),
        options=request_options(**options),
    )


def prediction(reply: predict_pb2.PredictResponse) -> Prediction:
    """The reply of Predict as a result."""
    return Prediction(tuple(map(score_of, reply.top)), region_of(reply.region), provenance_of(reply.provenance))


def score_of(score: common_pb2.Score) -> Score:
    """A class with its score."""
    return Score(score.class_index, score.class_name, score.probability, score.logit)


def explain_request(
    image: ImageLike,
    methods: MethodLike | list[Any],
    *,
    target: TargetLike | list[Any] | None = None,
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
    return explain_pb2.ExplainRequest(
        model=model,
        image=images.message(image),
        preprocess=choice("preprocess", PREPROCESS, preprocess),
        methods=[
            set_method(explain_pb2.ExplainMethod(), each, shorthand)
            for each in (methods if isinstance(methods, list) else [methods])
        ],
        targets=[target_message(each) for each in targets],
        format=choice("format", _FORMAT, format),
        overlay=overlay,
        options=request_options(**options),
    )


def explanations(request: explain_pb2.ExplainRequest, reply: explain_pb2.ExplainResponse) -> Explanations:
    """The reply of Explain as results, which keep the picture that was sent."""
    region, provenance = region_of(reply.region), provenance_of(reply.provenance)
    return Explanations([explanation_of(each, request.image, region, provenance) for each in reply.explanations])


def model_card(reply: models_pb2.Model) -> ModelCard:
    """A model's card."""
    return ModelCard(
        name=reply.name,
        builder=reply.builder,
        weights_digest=reply.weights_digest,
        classes=tuple(reply.classes),
        input_size=(reply.input_height, reply.input_width),
        any_size=reply.any_size,
        mean=tuple(reply.mean),
        std=tuple(reply.std),
        precisions=tuple(fields.choice_name(_PRECISION, each) for each in reply.precisions),
        default_eps=reply.default_eps,
        grad_cam_layer=reply.grad_cam_layer,
        gflop=reply.gflop,
        methods=tuple(Applicability(each.method, each.applies, each.reason) for each in reply.methods),
        layers=tuple(Layer(each.name, each.kind, each.channels, each.height, each.width) for each in reply.layers),
        notes=tuple(reply.notes),
        head=fields.choice_name(_HEAD, reply.head or models_pb2.HEAD_SOFTMAX),
    )


def request_options(
    *,
    priority: str = "interactive",
    precision: str = "auto",
    seed: int | None = None,
    time_budget: float | None = None,
    allow_partial: bool = False,
    quick_decode: bool = False,
    alone: bool = False,
) -> common_pb2.RequestOptions:
    """The options that every request carries."""
    options = common_pb2.RequestOptions(
        priority=choice("priority", _PRIORITY, priority),
        precision=choice("precision", _PRECISION, precision),
        allow_partial=allow_partial,
        quick_decode=quick_decode,
        alone=alone,
        seed=None if seed is None else count("seed", seed),
    )
    if time_budget is not None:
        if not 0 < time_budget < 1e9:
            raise ValueError(f"time_budget is a number of seconds above 0, not {time_budget}")
        options.time_budget.FromTimedelta(timedelta(seconds=time_budget))
    return options


def target_message(target: TargetLike) -> common_pb2.Target:
    """A class's index or name, a Rank or a Unit as a message."""
    if isinstance(target, str):
        return common_pb2.Target(class_name=target)
    if isinstance(target, Rank):
        return common_pb2.Target(rank=count("rank", target.rank))
    if isinstance(target, Unit):
        place = {name: count(name, value) for name, value in (("y", target.y), ("x", target.x)) if value is not None}
        unit = common_pb2.Unit(layer=target.layer, channel=count("channel", target.channel), **place)
        return common_pb2.Target(unit=unit)
    if isinstance(target, Integral) and not isinstance(target, bool):
        return common_pb2.Target(class_index=count("target", target))
    raise ValueError(f"a target is a class's index or name, a Rank or a Unit, not {target!r}; several go in a list")


def set_method(message: Any, asked: MethodLike, shorthand: Mapping[str, ParameterValue] = MappingProxyType({})) -> Any:
    """Writes a method and its parameters into a message that has a oneof of methods; returns the message."""
    if isinstance(asked, str):
        fields.fill(message, asked, shorthand)
    elif isinstance(asked, Method):
        fields.fill(message, asked.name, {**asked.parameters, **shorthand})
    elif isinstance(asked, tuple) and len(asked) == 2 and isinstance(asked[1], Mapping):
        fields.fill(message, asked[0], {**asked[1], **shorthand})
    else:
        raise ValueError(f"a method is a name, (name, parameters) or a Method, not {asked!r}; several go in a list")
    return message


def explanation_of(
    each: explain_pb2.Explanation, image: common_pb2.Image, region: Region, provenance: Provenance
) -> Explanation:
    """One map as a result."""
    chosen = each.method.WhichOneof("method")
    unit = each.target.unit
    return Explanation(
        map=_map(each),
        method=each.method_name or chosen or "",
        parameters=fields.resolved(getattr(each.method, chosen)) if chosen else {},
        target=_unit(unit) if each.target.HasField("unit") else each.target.class_index,
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


def _unit(unit: common_pb2.Unit) -> Unit:
    place = (unit.y, unit.x) if unit.HasField("y") and unit.HasField("x") else (None, None)
    return Unit(unit.layer, unit.channel, *place)


def region_of(region: common_pb2.Region) -> Region:
    """The part of the picture that the model saw."""
    return Region(region.x, region.y, region.width, region.height, region.image_width, region.image_height)


def provenance_of(origin: common_pb2.Provenance) -> Provenance:
    """Where an answer comes from."""
    return Provenance(
        model=origin.model,
        weights_digest=origin.weights_digest,
        seed=origin.seed,
        precision=fields.choice_name(_PRECISION, origin.precision),
        preprocess=fields.choice_name(PREPROCESS, origin.preprocess),
        rows=origin.rows,
        queue_seconds=origin.queue_seconds,
        compute_seconds=origin.compute_seconds,
        server_version=origin.server_version,
        warnings=tuple(origin.warnings),
        request_id=origin.request_id,
        quick_decode=origin.quick_decode,
        alone=origin.alone,
    )


def choice(name: str, enum: Any, value: str) -> Any:
    """The number of an enum's value; the error names the argument."""
    try:
        return fields.choice(enum, value)
    except ValueError as failure:
        raise ValueError(f"{name} {failure}") from None


def count(name: str, value: Any) -> int:
    """The value if it is a whole number from 0 on, else ValueError."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must be a whole number from 0 on, not {value!r}")
    return int(value)
