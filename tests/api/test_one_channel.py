"""A network of grey pictures behind requests of colour ones."""

from collections.abc import Iterator

import numpy as np
import own_networks
import pytest
import torch
from serving import PATIENCE, Server, Stubs, methods, picture, values

from gradserve.v1 import attack_pb2, explain_pb2, maximize_pb2, models_pb2, predict_pb2
from gradserve.v1 import common_pb2 as pb

CONFIG = """
[models.grey]
builder = "own_networks:one_channel"
seed = 8
channels = 1
precisions = ["exact", "balanced", "fast"]
mean = [0.3]
std = [0.2]
height = 16
width = 16
resize = 16
"""
IMAGE = picture(3, 16, 16)


@pytest.fixture(scope="module")
def stubs() -> Iterator[Stubs]:
    with Server(CONFIG, "--workers", "1") as server, server.channel() as channel:
        yield Stubs.of(channel)


@pytest.fixture(scope="module")
def right() -> tuple[torch.Tensor, torch.Tensor]:
    """The logits, and the gradient of the best class by the RGB pixels, in plain torch and float64."""
    torch.manual_seed(8)
    network = own_networks.one_channel().double()
    pixels = np.frombuffer(IMAGE.tensor.data, np.uint8).reshape(1, 16, 16, 3) / 255
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).requires_grad_()
    grey = 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]
    logits = network((grey - 0.3) / 0.2)[0]
    return logits.detach(), torch.autograd.grad(logits.max(), images)[0][0]


def test_logits(stubs: Stubs, right: tuple[torch.Tensor, torch.Tensor]) -> None:
    reply = stubs.gradients.Predict(predict_pb2.PredictRequest(image=IMAGE), timeout=PATIENCE)
    for score in reply.top:
        assert score.logit == pytest.approx(float(right[0][score.class_index]), abs=1e-4)


@pytest.mark.parametrize(("precision", "bound"), [("EXACT", 1e-4), ("BALANCED", 2e-2), ("FAST", 0.2)])
def test_gradients_by_the_colours(
    stubs: Stubs, right: tuple[torch.Tensor, torch.Tensor], precision: str, bound: float
) -> None:
    request = explain_pb2.ExplainRequest(
        image=IMAGE,
        methods=methods(gradient={"reduce": explain_pb2.REDUCE_SIGNED}),
        format=explain_pb2.MAP_FORMAT_FLOAT32,
        options=pb.RequestOptions(precision=getattr(pb, f"PRECISION_{precision}")),
    )
    found = values(stubs.gradients.Explain(request, timeout=PATIENCE).explanations[0].raw)
    wanted = right[1].sum(0).numpy()
    assert np.linalg.norm(found - wanted) < bound * np.linalg.norm(wanted)


def test_other_methods(stubs: Stubs) -> None:
    maps = methods(guided_backprop={}, grad_cam={}, integrated_gradients={"steps": 4}, occlusion={})
    reply = stubs.gradients.Explain(explain_pb2.ExplainRequest(image=IMAGE, methods=maps), timeout=PATIENCE)
    assert len(reply.explanations) == 4
    for name in ("gradient_ascent", "fgsm", "pgd"):
        method = attack_pb2.AttackMethod()
        getattr(method, name).SetInParent()
        attack = stubs.gradients.Attack(attack_pb2.AttackRequest(image=IMAGE, method=method), timeout=PATIENCE)
        assert attack.certificate.verdict != attack_pb2.VERDICT_UNSPECIFIED
    summand = maximize_pb2.Summand(target=pb.Target(class_index=1))
    settings = maximize_pb2.MaximizeSettings(steps=3)
    asked = maximize_pb2.MaximizeRequest(goals=[maximize_pb2.Goal(summands=[summand])], settings=settings)
    assert len(stubs.gradients.Maximize(asked, timeout=PATIENCE).images) == 1


def test_its_card(stubs: Stubs) -> None:
    card = stubs.models.GetModel(models_pb2.GetModelRequest(), timeout=PATIENCE)
    assert (list(card.mean), list(card.std)) == ([0.3], [0.2])
    assert any(note.startswith("it takes grey pictures") for note in card.notes)
