"""A picture of NaN in a batch of eight: the other seven are answered as if each were alone."""

from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import at, inputs, off, pictures

from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended, NotFinite
from gradserve_server.engine.job import Job, Steps
from gradserve_server.engine.objective import logit
from gradserve_server.engine.query import Answer, Query
from gradserve_server.models.card import Precision
from gradserve_server.models.catalogue import EMBEDDED, PRECISIONS
from gradserve_server.models.preparation import prepare
from gradserve_server.models.prepared import Prepared

ROWS, BAD = 8, 3
ROUNDING = {"exact": 1e-5, "balanced": 1e-5, "fast": 2**-7}  # Of logits: other numbers of rows are summed otherwise.
NETWORKS = ["trained-resnet20", "resnet18", "vgg11_bn", "densenet121", "trained-mobilenet_v2"]
NETWORKS += ["convnext_tiny", "swin_t", "vit_b_32"]


def answered(model: Prepared, precision: Precision, images: Tensor) -> tuple[list[Any], int]:
    """What an engine tells each of as many callers as there are images, and the number of its passes."""
    engine = Engine({"model": model}, rows=ROWS)

    def asking(image: Tensor) -> Any:
        def method(job: Job) -> Steps:
            answer = yield Query(image, logit(1), "image")
            return answer

        return method

    for i in range(len(images)):
        engine.submit(Job(str(i), "model", asking(images[i : i + 1]), precision))
    ended = {}
    while not engine.idle:
        ended |= {int(event.job.id): event for event in engine.step() if isinstance(event, Ended)}
    return [ended[i].error or ended[i].result for i in range(len(images))], len(engine.passes)


def same(ours: Answer, reference: Answer) -> bool:
    """Whether logits and gradients are equal, bit for bit."""
    pairs = ((ours.logits, reference.logits), (ours.image_grad, reference.image_grad))
    return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_other_seven_are_answered_as_alone(name: str, precision: Precision) -> None:
    model, images = inputs(name, ROWS)
    at(model, precision)
    check(model, precision, images.detach())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_also_where_the_processor_emulates_the_precision(precision: Precision) -> None:
    model = prepare(EMBEDDED["digits"].model_copy(update={"precisions": PRECISIONS}), torch.device("cpu"))
    check(model, precision, pictures(model, ROWS))


def check(model: Prepared, precision: Precision, images: Tensor) -> None:
    """Either as in good company, whose rounding may differ from that of a single row, or as alone, to the bit."""
    alone = [answered(model, precision, image[None])[0][0] for image in images]
    good, _ = answered(model, precision, images)
    for bad in (torch.nan, torch.inf):
        spoiled = images.clone()
        spoiled[BAD] = bad
        found, passes = answered(model, precision, spoiled)
        assert passes == 1, "all eight shared it"
        assert isinstance(found[BAD], NotFinite)
        for i in set(range(ROWS)) - {BAD}:
            assert same(found[i], good[i]) or same(found[i], alone[i])
            assert off(torch.as_tensor(found[i].logits), torch.as_tensor(alone[i].logits)) < ROUNDING[precision]
