"""What admission counts for an explanation: its images, at the price of what the method differentiates by."""

import time
from functools import cache

import numpy as np
import pytest
from zoo import prepared

from gradserve.v1 import attack_pb2, explain_pb2
from gradserve.v1 import common_pb2 as pb
from gradserve_server.api.request import CallContext
from gradserve_server.api.rpcs import attack, explain
from gradserve_server.api.rpcs.certificate import map_task
from gradserve_server.config import LimitSettings
from gradserve_server.models.card import ModelCard
from gradserve_server.models.served import ServedModels


@cache
def card() -> ModelCard:
    return prepared("resnet18").card


PRICES = {"image": 3, "taps": 1, "nothing": 1}  # In forward passes.
METHODS = {  # By method: the images that the network sees, and what is differentiated by.
    "gradient": (1, "image"),
    "smooth_grad": (51, "image"),
    "grad_cam": (1, "taps"),
    "guided_grad_cam": (2, "image"),
    "occlusion": (15 * 23 + 1, "nothing"),  # Patches of 9 pixels, 4 apart, on 64 x 96, and the picture itself.
}


def black() -> pb.Image:
    """Of the model's own size."""
    pixels = np.zeros((card().height, card().width, 3), np.uint8)
    return pb.Image(tensor=pb.Tensor(shape=pixels.shape, dtype=pb.DTYPE_UINT8, data=pixels.tobytes()))


def context() -> CallContext:
    return CallContext("id", time.monotonic(), None, ServedModels([card()]), LimitSettings())


def cost(*names: str) -> float:
    """In GFLOP, of the methods with their defaults on an image of the model's own size."""
    request = explain_pb2.ExplainRequest(preprocess=pb.PREPROCESS_AS_IS, image=black())
    for name in names:
        getattr(request.methods.add(), name).SetInParent()
    return explain.bind(request, context()).task.cost


@pytest.mark.parametrize("name", METHODS)
def test_a_method_costs_what_it_differentiates(name: str) -> None:
    images, wrt = METHODS[name]
    assert cost(name) == pytest.approx(card().gflop * images * PRICES[wrt])


def test_methods_of_one_request_add_up() -> None:
    assert cost(*METHODS) == pytest.approx(sum(cost(name) for name in METHODS))


def test_the_maps_of_an_attack_are_counted() -> None:
    request = attack_pb2.AttackRequest(preprocess=pb.PREPROCESS_AS_IS, image=black(), method={"fgsm": {}})
    request.maps.smooth_grad.SetInParent()
    bound = attack.bind(request, context())
    assert map_task(bound, bound.task.image, "before").cost == pytest.approx(cost("smooth_grad"))
