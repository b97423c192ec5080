"""ListModels and GetModel: cards as messages."""

from gradserve.v1 import models_pb2

from ...methods.attack import METHODS as ATTACKS
from ...methods.explain import METHODS, Call
from ...models.card import ModelCard
from ..fields import enum_value
from ..reply import PRECISION_NUMBERS
from .explanation import method_warnings
from .influence import no_index

HEAD = models_pb2.DESCRIPTOR.enum_types_by_name["Head"]


def model_reply(card: ModelCard, *, layers: bool) -> models_pb2.Model:
    """A model's card as a message."""
    notes = {name: "; ".join(method_warnings(Call(name, {}, None), card)) for name in METHODS}  # type: ignore[arg-type]
    refusals = {name: method.refuses(card) for name, method in METHODS.items()}
    applies = [
        models_pb2.Applicability(method=name, applies=not why, reason=why or notes[name])
        for name, why in refusals.items()
    ]
    for name, method in ATTACKS.items():
        why = "" if method.uses == "scores" or method.uses_surrogate else card.no_gradient
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
