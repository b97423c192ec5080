"""Pure functions that several RPCs share: arguments -> parts of requests, parts of replies -> parts of results."""

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import timedelta
from difflib import get_close_matches
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

import grpc
import numpy as np
from PIL import Image

from gradserve.arguments import Contrast, Direction, ImageLike, Layout, Rank, RegionLike, Similarity, TargetLike, Unit
from gradserve.errors import Unimplemented
from gradserve.messages import fields, inputs, vectors
from gradserve.parameters.common import Precision, Priority
from gradserve.parameters.method import Method, ParameterValue
from gradserve.results.common import Provenance, Region, Score
from gradserve.v1 import common_pb2

PREPROCESS = common_pb2.Preprocess.DESCRIPTOR
PRECISION = common_pb2.Precision.DESCRIPTOR
_PRIORITY = common_pb2.Priority.DESCRIPTOR


def score_of(score: common_pb2.Score) -> Score:
    """A class with its score."""
    return Score(score.class_index, score.class_name, score.probability, score.logit)


def request_options(
    *,
    priority: Priority = "interactive",
    precision: Precision = "auto",
    seed: int | None = None,
    time_budget: float | None = None,
    allow_partial: bool = False,
    quick_decode: bool = False,
    alone: bool = False,
) -> common_pb2.RequestOptions:
    """The options that every request carries."""
    options = common_pb2.RequestOptions(
        priority=choice("priority", _PRIORITY, priority),
        precision=choice("precision", PRECISION, precision),
        allow_partial=allow_partial,
        quick_decode=quick_decode,
        alone=alone,
        seed=None if seed is None else count("seed", seed, bits=64),
    )
    if time_budget is not None:
        if not 0 < real("time_budget", time_budget) < 1e9:
            raise ValueError(f"time_budget is a number of seconds above 0, not {time_budget}")
        options.time_budget.FromTimedelta(timedelta(seconds=time_budget))
    return options


def target_message(target: TargetLike, layout: Layout = "HWC") -> common_pb2.Target:
    """A class's index or name, a Rank, a Unit, a Contrast, a Similarity or a Direction as a message.

    layout: the axes of the array of a Similarity that does not say its own.
    """
    if isinstance(target, str):
        return common_pb2.Target(class_name=target)
    if isinstance(target, Rank):
        return common_pb2.Target(rank=count("rank", target.rank))
    if isinstance(target, Unit):
        place = {name: count(name, value) for name, value in (("y", target.y), ("x", target.x)) if value is not None}
        unit = common_pb2.Unit(layer=target.layer, channel=count("channel", target.channel), **place)
        return common_pb2.Target(unit=unit)
    if isinstance(target, Contrast | Similarity | Direction):
        return _composed(target, layout)
    if isinstance(target, Integral) and not isinstance(target, bool):
        return common_pb2.Target(class_index=count("target", target))
    kinds = "a class's index or name, a Rank, a Unit, a Contrast, a Similarity or a Direction"
    raise ValueError(f"a target is {kinds}, not {target!r}; several go in a list")


def _composed(target: Contrast | Similarity | Direction, layout: Layout) -> common_pb2.Target:
    if isinstance(target, Similarity):
        return common_pb2.Target(similarity=_similarity(target, layout))
    if isinstance(target, Direction):
        return common_pb2.Target(direction=direction_message(target))
    terms = [
        common_pb2.WeightedTarget(target=target_message(each, layout), weight=weight) for each, weight in target.terms
    ]
    top = None if target.top is None else count("top", target.top)
    return common_pb2.Target(contrast=common_pb2.Contrast(terms=terms, others_of_top=top))


def direction_message(direction: Direction) -> common_pb2.Direction:
    """A direction by its numbers, those in a file, or the name by which the server keeps it."""
    if direction.name:
        return common_pb2.Direction(layer=direction.layer, name=direction.name)
    if direction.vector is None:
        raise ValueError("a direction needs its numbers, the path of their file, or the name of one that is kept")
    if isinstance(direction.vector, (str, os.PathLike)):
        vector = vectors.read(direction.vector)
    else:
        vector = vectors.checked(direction.vector, "the vector of a direction")
    return common_pb2.Direction(layer=direction.layer, vector=vector.tolist())


def score_region(region: RegionLike, layout: Layout = "HWC", name: str = "region") -> common_pb2.ScoreRegion:
    """A box (x0, y0, x1, y1), or a mask as any picture, as a message. layout: the axes of an array.

    `name`: of the argument that gave it.
    """
    if not isinstance(region, (tuple, list)):
        return common_pb2.ScoreRegion(mask=inputs.message(_without_alpha(_grey(region), layout), layout))
    if len(region) != 4 or not all(isinstance(edge, Real) and not isinstance(edge, bool) for edge in region):
        raise ValueError(f"{name} is a box of four numbers (x0, y0, x1, y1), or a mask, not {region!r}")
    x0, y0, x1, y1 = map(float, region)
    return common_pb2.ScoreRegion(box=common_pb2.Box(x0=x0, y0=y0, x1=x1, y1=y1))


def _grey(mask: ImageLike) -> ImageLike:
    """The mask, as white on black where it is an array of bool."""
    array = inputs.as_array(mask) if hasattr(mask, "__array__") else None
    return mask if array is None or array.dtype != np.bool_ else array.astype(np.uint8) * 255


def _without_alpha(mask: ImageLike, layout: Layout) -> ImageLike:
    """The mask. Raises ValueError for an array with alpha, which would be laid over white, so that all were inside."""
    shape = inputs.as_array(mask).shape if hasattr(mask, "__array__") else ()
    if len(shape) == 3 and shape[2 if layout == "HWC" else 0] == 4 and not isinstance(mask, Image.Image):
        raise ValueError("a mask as an array has no alpha: give [H, W], white inside and black outside")
    return mask


def target_of(target: common_pb2.Target) -> int | Unit | Contrast | Similarity | Direction:
    """A target of a reply."""
    kind = target.WhichOneof("kind")
    if kind == "contrast":
        terms = target.contrast.terms
        return Contrast.sum(*((_single(term.target), term.weight) for term in terms))
    if kind == "similarity":
        return Similarity(None, target.similarity.layer)
    if kind == "direction":
        return Direction(target.direction.layer, None, target.direction.name)
    return _single(target)


def check_target(asked: common_pb2.Target, answered: common_pb2.Target, origin: common_pb2.Provenance) -> None:
    """Raises Unimplemented where a server has left out a part of the target that it does not know, as protobuf does.

    It would have answered for a class instead, for the predicted one or over all positions.
    """
    kind = asked.WhichOneof("kind")
    left_out = [kind] if kind in ("contrast", "similarity", "direction") and not answered.HasField(kind) else []
    left_out += ["region"] if asked.HasField("region") and not answered.HasField("region") else []
    if left_out:
        what = f"knows no {' and no '.join(map(str, left_out))} as target"
        raise unread(what, "it answered for another one", origin)


def unread(what: str, instead: str, origin: common_pb2.Provenance) -> Unimplemented:
    """The error of a server that has read past a part of a request: what it does not do, and what it did instead."""
    version = f", version {origin.server_version}," if origin.server_version else ""
    text = f"the server{version} is older than this client and {what}: {instead}; ask a newer server"
    return Unimplemented(text, code=grpc.StatusCode.UNIMPLEMENTED, request_id=origin.request_id)


def _single(target: common_pb2.Target) -> int | Unit:
    if not target.HasField("unit"):
        return target.class_index
    unit = target.unit
    place = (unit.y, unit.x) if unit.HasField("y") and unit.HasField("x") else (None, None)
    return Unit(unit.layer, unit.channel, *place)


def _similarity(target: Similarity, layout: Layout) -> common_pb2.Similarity:
    if target.image is None:
        raise ValueError("a similarity needs the other picture")
    return common_pb2.Similarity(
        image=inputs.message(target.image, target.layout or layout),
        preprocess=choice("preprocess", PREPROCESS, target.preprocess),
        layer=target.layer,
    )


def are_several(methods: object) -> bool:
    """Whether these are several methods: a list, or any sequence but a name and a (name, parameters) pair."""
    pair = isinstance(methods, tuple) and len(methods) == 2 and isinstance(methods[1], Mapping)
    return isinstance(methods, Sequence) and not isinstance(methods, str) and not pair


def split(
    call: str, arguments: Mapping[str, Any], own: Set[str], parameters: Set[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of a call that are its own, and those that are parameters of its method.

    Raises ValueError for a name that is neither, if it is nearer to one of the call's own or there are no parameters.
    """
    for name in arguments.keys() - own - parameters:
        near = get_close_matches(name, [*own, *parameters], 1)
        if not parameters or (near and near[0] in own):
            raise fields.unknown(f"argument of {call}", name, own)
    named = {name: value for name, value in arguments.items() if name in own}
    return named, {name: value for name, value in arguments.items() if name not in own}


def check_names(call: str, arguments: Iterable[str], own: Set[str]) -> None:
    """Raises ValueError for an argument that is none of the call's own, with the nearest that is."""
    for name in arguments:
        if name not in own:
            raise fields.unknown(f"argument of {call}", name, own)


def set_method(message: Any, method: object, shorthand: Mapping[str, ParameterValue] = MappingProxyType({})) -> Any:
    """Writes a method and its parameters into a message that has a oneof of methods; returns the message.

    The method is a name, (name, parameters) or a Method. Raises ValueError.
    """
    if isinstance(method, str):
        fields.fill(message, method, shorthand)
    elif isinstance(method, Method):
        fields.fill(message, method.name, {**method.parameters, **shorthand})
    elif isinstance(method, tuple) and len(method) == 2 and isinstance(method[1], Mapping):
        fields.fill(message, method[0], {**method[1], **shorthand})
    else:
        raise ValueError(f"a method is a name, (name, parameters) or a Method, not {method!r}; several go in a list")
    return message


def region_of(region: common_pb2.Region) -> Region:
    """The part of the picture that the model saw."""
    return Region(region.x, region.y, region.width, region.height, region.image_width, region.image_height)


def provenance_of(origin: common_pb2.Provenance) -> Provenance:
    """Where an answer comes from."""
    return Provenance(
        model=origin.model,
        weights_digest=origin.weights_digest,
        seed=origin.seed,
        precision=fields.choice_name(PRECISION, origin.precision),
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


def count(name: str, value: Any, bits: int = 32) -> int:
    """The value if it is a whole number from 0 on that a field of so many bits holds, else ValueError."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must be a whole number from 0 on, not {value!r}")
    if int(value) >= 1 << bits:
        raise ValueError(f"{name} must be below 2**{bits}, not {value}")
    return int(value)


def real(name: str, value: Any) -> float:
    """The value if it is a real number, else ValueError."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return float(value)
