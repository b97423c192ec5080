"""What a server tells about its models, and of their changes, as results: pure functions."""

from gradserve.messages import fields
from gradserve.messages.common import PRECISION
from gradserve.results.models import Applicability, ChangedModels, ChangeProgress, Layer, ModelCard
from gradserve.v1 import management_pb2, models_pb2

CHANGE_TIMEOUT = 3600.0  # Seconds that a change of models may take.
_HEAD = models_pb2.Head.DESCRIPTOR
_STATE = management_pb2.ModelChangeState.DESCRIPTOR


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
        precisions=tuple(fields.choice_name(PRECISION, each) for each in reply.precisions),
        default_eps=reply.default_eps,
        grad_cam_layer=reply.grad_cam_layer,
        gflop=reply.gflop,
        methods=tuple(Applicability(each.method, each.applies, each.reason) for each in reply.methods),
        layers=tuple(Layer(each.name, each.kind, each.channels, each.height, each.width) for each in reply.layers),
        notes=tuple(reply.notes),
        head=fields.choice_name(_HEAD, reply.head or models_pb2.HEAD_SOFTMAX),
    )


def change_progress(reply: management_pb2.ModelChangeProgress) -> ChangeProgress:
    """How far a change has come."""
    state = fields.choice_name(_STATE, reply.state)
    return ChangeProgress(state, reply.worker, reply.workers, reply.model, reply.seconds)


def changed_models(reply: management_pb2.ModelChangeResult) -> ChangedModels:
    """What a change has done."""
    return ChangedModels(tuple(map(model_card, reply.models)), tuple(reply.served), reply.seconds)
