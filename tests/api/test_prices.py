"""What admission counts for an explanation: its images, at the price of what the method differentiates by."""

import time

import numpy as np
import pytest
from zoo import prepared

from gradserve.v1 import common_pb2 as pb
from gradserve.v1 import explain_pb2
from gradserve_server.api.request import CallContext
from gradserve_server.api.rpcs import explain
from gradserve_server.config import LimitSettings
from gradserve_server.models.served import ServedModels

CARD = prepared("resnet18").card
PRICES = {"image": 3, "taps": 1, "nothing": 1}  # forward passes
METHODS = {  # the method's name: the images that the network sees, and what is differentiated by
    "gradient": (1, "image"),
    "smooth_grad": (51, "image"),
    "grad_cam": (1, "taps"),
    "guided_grad_cam": (2, "image"),
    "occlusion": (15 * 23 + 1, "nothing"),  # patches of 9 pixels, 4 apart, on 64 x 96; and the picture itself
}


def cost(*names: str) -> float:
    """In GFLOP, of the methods with their defaults on an image of the model's own size."""
    side = np.zeros((CARD.height, CARD.width, 3), np.uint8)
    request = explain_pb2.ExplainRequest(preprocess=pb.PREPROCESS_AS_IS)
    request.image.tensor.CopyFrom(pb.Tensor(shape=side.shape, dtype=pb.DTYPE_UINT8, data=side.tobytes()))
    for name in names:
        getattr(request.methods.add(), name).SetInParent()
    at = CallContext("id", time.monotonic(), None, ServedModels([CARD]), LimitSettings())
    return explain.bind(request, at).task.cost


@pytest.mark.parametrize("name", METHODS)
def test_a_method_costs_what_it_differentiates(name: str) -> None:
    images, wrt = METHODS[name]
    assert cost(name) == pytest.approx(CARD.gflop * images * PRICES[wrt])


def test_methods_of_one_request_add_up() -> None:
    assert cost(*METHODS) == pytest.approx(sum(cost(name) for name in METHODS))
