"""From an Outcome to a reply. Everything here runs in threads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from gradserve.images import overlay
from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2, models_pb2, predict_pb2

from .. import __version__
from ..methods.attack import METHODS as ATTACKS
from ..methods.explain import METHODS, Call, Explained
from ..methods.targets import Target
from ..models.card import HeadKind, ModelCard
from ..pool.wire import Outcome
from .fields import enum_value, from_dict
from .images import png
from .request import PRECISIONS, Bound
from .rpcs.influence import no_index

HEAD = models_pb2.DESCRIPTOR.enum_types_by_name["Head"]
PRECISION_NUMBERS: dict[str, Any] = {name: enum_value for enum_value, name in PRECISIONS.items()}
SMALLEST_OVERLAY = 224  # pixels of the longer side; a smaller one is magnified by a whole number
MAX_FLOAT16 = float(np.finfo(np.float16).max)
GUIDED_METHODS = ("guided_backprop", "deconvnet", "guided_grad_cam")
CAM_METHODS = ("grad_cam", "guided_grad_cam")


def predict_reply(bound: Bound, outcome: Outcome) -> predict_pb2.PredictResponse:
    """The best classes with probabilities and logits."""
    logits = outcome.result.logits
    top = scores(logits, best(logits, bound.top_k), bound.card)
    return predict_pb2.PredictResponse(top=top, region=bound.region, provenance=provenance(bound, outcome))


def best(logits: np.ndarray, count: int) -> list[int]:
    """The classes of the highest logits, best first."""
    return [int(i) for i in np.argsort(-logits, kind="stable")[:count]]


def scores(logits: np.ndarray, classes: Sequence[int], card: ModelCard) -> list[pb.Score]:
    """Some classes with their probabilities and logits."""
    logits = logits.astype(np.float64)
    probabilities = probabilities_of(logits, card.head)
    return [
        pb.Score(class_index=i, class_name=card.classes[i], probability=probabilities[i], logit=logits[i])
        for i in classes
    ]


def probabilities_of(logits: np.ndarray, head: HeadKind) -> np.ndarray:
    """Of each class, [classes]: they sum to 1 under a softmax head and are independent sigmoids under the others."""
    if head == "softmax":
        shifted = np.exp(logits - logits.max())
        return np.asarray(shifted / shifted.sum())
    small = np.exp(-np.abs(logits))  # never overflows
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1 + small))


def explain_reply(bound: Bound, outcome: Outcome, request: explain_pb2.ExplainRequest) -> explain_pb2.ExplainResponse:
    """One explanation for each call, in their order."""
    explanations = []
    for call, answer in zip(bound.calls, outcome.result, strict=True):
        found = explanation(call, answer, bound.card, request.format)
        if request.overlay:
            found.overlay = overlaid(bound.task.image, answer.values)
        explanations.append(found)
    return explain_pb2.ExplainResponse(
        explanations=explanations, region=bound.region, provenance=provenance(bound, outcome)
    )


def explanation(call: Call, answer: Explained, card: ModelCard, form: explain_pb2.MapFormat) -> explain_pb2.Explanation:
    """One map with what it is of."""
    low, high = float(answer.values.min()), float(answer.values.max())
    target = resolved_target(call.target, answer.label)
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
        warnings=[*answer.warnings, *method_warnings(call, card)],
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
    if answer.coarse is not None:
        reply.coarse.CopyFrom(tensor(answer.coarse.astype("<f4")))
    if answer.completeness_gap is not None:
        reply.completeness_gap = answer.completeness_gap
    return reply


def levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The values as uint8, the lowest 0 and the highest 255; zeros where all are the same."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    scaled = values - low
    scaled /= high - low
    scaled *= 255
    return np.rint(scaled, out=scaled).astype(np.uint8)


def resolved_target(target: Target, label: int | None) -> pb.Target:
    """The class that a name or a rank turned out to be, or the unit."""
    if not target.layer:
        return pb.Target(class_index=label)
    unit = pb.Unit(layer=target.layer, channel=target.channel)
    if target.position is not None:
        unit.y, unit.x = target.position
    return pb.Target(unit=unit)


def target_name(target: pb.Target, card: ModelCard) -> str:
    """The class's name, or "layer4.1:17 (3, 5)"."""
    if target.WhichOneof("kind") == "class_index":
        return card.classes[target.class_index]
    unit = target.unit
    return f"{unit.layer}:{unit.channel}" + (f" ({unit.y}, {unit.x})" if unit.HasField("y") else "")


def method_warnings(call: Call, card: ModelCard) -> list[str]:
    """Notes on the model that concern the method: guided only in part, or a default layer that is not the usual one."""
    notes = [note for note in card.notes if note.startswith("PARTIALLY_GUIDED") and call.method in GUIDED_METHODS]
    layer = call.parameters.get("layer")
    if call.method in CAM_METHODS and layer in (None, card.grad_cam_layer):
        notes += [note for note in card.notes if note.startswith("GRAD_CAM")]
    return notes


def overlaid(image: np.ndarray, values: np.ndarray) -> bytes:
    """PNG of the map over what the model saw."""
    pixels = image if image.dtype == np.uint8 else (image * 255).round().astype(np.uint8)
    height, width = values.shape
    factor = max(1, round(SMALLEST_OVERLAY / max(height, width)))
    photo = Image.fromarray(pixels).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    picture = overlay(photo, values, (0, 0, width * factor, height * factor))
    return png(np.asarray(picture))


def tensor(values: np.ndarray) -> pb.Tensor:
    """float16 or float32 as a Tensor."""
    dtype = pb.DTYPE_FLOAT16 if values.dtype == np.float16 else pb.DTYPE_FLOAT32
    return pb.Tensor(shape=values.shape, dtype=dtype, data=values.tobytes())


def provenance(bound: Bound, *outcomes: Outcome) -> pb.Provenance:
    """Enough to repeat the request."""
    return pb.Provenance(
        model=bound.card.name,
        weights_digest=bound.card.digest,
        seed=bound.task.seed,
        precision=PRECISION_NUMBERS[bound.task.precision],
        preprocess=bound.preprocess,
        rows=sum(outcome.rows for outcome in outcomes),
        queue_seconds=outcomes[0].queue_seconds,
        compute_seconds=sum(outcome.compute_seconds for outcome in outcomes),
        server_version=__version__,
        warnings=provenance_notes(bound.card),
        request_id=bound.task.id,
        quick_decode=bound.quick_decode,
        alone=bound.task.alone,
    )


def provenance_notes(card: ModelCard) -> list[str]:
    """The card's notes that a reader of every answer should know: of its outputs, and of half precision inside it."""
    return [note for note in card.notes if note.startswith(("SOFTMAX_OUTPUTS", "HALF_INSIDE"))]


def probability_notes(card: ModelCard) -> list[str]:
    """What is to be known of every answer by logits that were made of probabilities."""
    return [note for note in card.notes if note.startswith("SOFTMAX_OUTPUTS")]


def model_reply(card: ModelCard, *, layers: bool) -> models_pb2.Model:
    """A model's card as a message."""
    notes = {name: "; ".join(method_warnings(Call(name, {}, None), card)) for name in METHODS}  # type: ignore[arg-type]
    refusals = {name: method.refuses(card) for name, method in METHODS.items()}
    applies = [
        models_pb2.Applicability(method=name, applies=not why, reason=why or notes[name])
        for name, why in refusals.items()
    ]
    for name, method in ATTACKS.items():
        why = "" if method.uses == "scores" or method.borrows else card.no_gradient
        applies.append(models_pb2.Applicability(method=name, applies=not why, reason=why))
    why = no_index(card)
    applies.append(models_pb2.Applicability(method="influence", applies=not why, reason=why))
    model = models_pb2.Model(
        name=card.name,
        builder=card.builder,
        weights_digest=card.digest,
        classes=card.classes,
        input_height=card.height,
        input_width=card.width,
        any_size=card.any_size,
        mean=card.mean,
        std=card.std,
        precisions=[PRECISION_NUMBERS[p] for p in card.precisions],
        default_eps=card.default_eps,
        grad_cam_layer=card.grad_cam_layer,
        gflop=card.gflop,
        methods=applies,
        notes=card.notes,
        head=enum_value(HEAD, card.head),
    )
    if layers:
        model.layers.extend(
            models_pb2.Layer(name=la.name, kind=la.kind, channels=la.channels, height=la.height, width=la.width)
            for la in card.layers
        )
    return model
