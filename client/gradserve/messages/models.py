"""What a server tells about its models, as results: a pure function."""

from gradserve.messages import fields
from gradserve.messages.common import PRECISION
from gradserve.results.models import Applicability, Layer, ModelCard
from gradserve.v1 import models_pb2

_HEAD = models_pb2.Head.DESCRIPTOR


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
