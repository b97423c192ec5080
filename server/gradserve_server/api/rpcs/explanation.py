"""One map as a message: its numbers or picture, its warnings, its overlay and the object that it lies on."""

import numpy as np
from PIL import Image

from gradserve.images import overlay
from gradserve.v1 import explain_pb2

from ...methods.explain import METHODS, Call, Explained, relevance_of
from ...methods.targets import Contrast
from ...models.card import ModelCard
from ..arguments.regions import region_message
from ..fields import from_dict
from ..maps.segments import NO_SEGMENT, segment, segment_message
from ..maps.trust import trial_warnings, trust_message
from ..pictures.images import png
from ..reply import target_message, target_name, tensor
from ..request import Bound

MIN_OVERLAY_SIDE = 224  # Pixels of the longer side. A smaller overlay is magnified by a whole number.
MAX_FLOAT16, MIN_FLOAT16 = float(np.finfo(np.float16).max), float(np.finfo(np.float16).tiny)
NO_CONTRAST = (
    "NO_CONTRAST: by this rule the relevance hardly depends on which class or unit it is of; a contrast, "
    "one class minus another, shows what speaks for the one and against the other"
)
LEAKY = frozenset(("LeakyReLU", "PReLU"))


def explanation(call: Call, answer: Explained, card: ModelCard, form: explain_pb2.MapFormat) -> explain_pb2.Explanation:
    """One map with what it is of."""
    low, high = float(answer.values.min()), float(answer.values.max())
    target = target_message(answer.target)
    if call.region is not None:
        target.region.CopyFrom(region_message(call.region))
    reply = explain_pb2.Explanation(
        method_name=call.method,
        target=target,
        target_name=target_name(target, card),
        target_value=answer.target_value,
        low=low,
        high=high,
        asked=answer.asked,
        done=answer.done,
        completed_fraction=answer.done / answer.asked,
        warnings=warnings_of(call, answer, card),
    )
    from_dict(getattr(reply.method, call.method), call.parameters)
    getattr(reply.method, call.method).SetInParent()
    if form == explain_pb2.MAP_FORMAT_PNG:
        reply.png = png(levels(answer.values, low, high))
    else:
        half = form == explain_pb2.MAP_FORMAT_FLOAT16
        reply.raw.CopyFrom(tensor(answer.values.astype("<f2" if half else "<f4")))
        if half and max(abs(low), abs(high)) > MAX_FLOAT16:
            reply.warnings.append("FLOAT16_OVERFLOW: values beyond 65504 became infinite; ask for FLOAT32")
        if half and 0 < max(abs(low), abs(high)) < MIN_FLOAT16:
            reply.warnings.append("FLOAT16_UNDERFLOW: values below 6e-5 lose digits or become 0; ask for FLOAT32")
    if answer.coarse is not None:
        reply.coarse.CopyFrom(tensor(answer.coarse.astype("<f4")))
    if answer.completeness_gap is not None:
        reply.completeness_gap = answer.completeness_gap
    if answer.standard_error is not None:
        reply.standard_error = answer.standard_error
    if answer.judgement is not None:
        reply.trust.CopyFrom(trust_message(answer.judgement))
    return reply


def levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The values as uint8, the lowest 0 and the highest 255; zeros where all are the same."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    scaled = values - low
    scaled /= high - low
    scaled *= 255
    return np.rint(scaled, out=scaled).astype(np.uint8)


def warnings_of(call: Call, answer: Explained, card: ModelCard) -> list[str]:
    """What a careful reader should know about a map."""
    by_call = [*method_warnings(call, card), *_target_warnings(call, card), *trial_warnings(call, answer, card)]
    return [*answer.warnings, *by_call]


def method_warnings(call: Call, card: ModelCard) -> list[str]:
    """Notes on the model that concern the method: guided only in part, or a default layer that is not the usual one."""
    method = METHODS[call.method]
    notes = [note for note in card.notes if note.startswith("PARTIALLY_GUIDED") and method.guided]
    layer = call.parameters.get("layer")
    if method.default_layer and layer in (None, card.grad_cam_layer):
        notes += [note for note in card.notes if note.startswith("GRAD_CAM")]
    return notes


def _target_warnings(call: Call, card: ModelCard) -> list[str]:
    """A warning that relevance by z+ or gamma needs a contrast, for networks with ReLUs, leaky ones included."""
    rule = relevance_of(call)
    rectified = card.relus > 0 or LEAKY & set(card.other_activations)
    vague = rule is not None and rule.convolution != "epsilon" and rectified
    return [NO_CONTRAST] if vague and not isinstance(call.target, Contrast) else []


def overlaid(image: np.ndarray, values: np.ndarray) -> bytes:
    """PNG of the map over what the model saw."""
    pixels = image if image.dtype == np.uint8 else (image * 255).round().astype(np.uint8)
    height, width = values.shape
    factor = max(1, round(MIN_OVERLAY_SIDE / max(height, width)))
    photo = Image.fromarray(pixels).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    picture = overlay(photo, values, (0, 0, width * factor, height * factor))
    return png(np.asarray(picture))


def cut_out(message: explain_pb2.Explanation, bound: Bound, values: np.ndarray) -> None:
    """Adds the object that the map lies on, or why there is none."""
    found = segment(bound.task.image, values)
    if found is None:
        message.warnings.append(NO_SEGMENT)
    else:
        message.segment.CopyFrom(segment_message(found, bound.picture.region))
