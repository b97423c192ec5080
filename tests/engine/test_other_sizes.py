"""Backward rules on images of another size, on a network that goes another way there."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import CPU, prepared

from gradserve_server.engine.differentiate import differentiate
from gradserve_server.engine.engine import Engine
from gradserve_server.engine.events import Ended
from gradserve_server.engine.job import Job, Steps
from gradserve_server.engine.objective import NotApplicable, logit
from gradserve_server.engine.query import Answer, Part, Query
from gradserve_server.models.card import Framing
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.loading import Source
from gradserve_server.models.preparation import prepare_source
from gradserve_server.models.prepared import Prepared
from gradserve_server.models.rules import Relevance, Rule

OWN, OTHER, NEAR = (16, 16), (32, 24), (16, 24)
FRAMING = Framing(16, 16)


class OtherWay(nn.Module):
    """Applies an operation without a rule where the image has more than 16 lines."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        large = x.shape[2] > OWN[0]
        x = F.relu(self.first(x))
        x = F.silu(self.second(x)) if large else F.relu(self.second(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def model() -> Prepared:
    torch.manual_seed(0)
    half = (0.5, 0.5, 0.5)
    source = Source(
        OtherWay().eval().requires_grad_(False), "0" * 64, tuple("01234"), *OWN, FRAMING, "bilinear", half, half
    )
    return prepare_source(ModelSpec(name="other_way"), source, CPU, torch.float32)


def query(rule: Rule, height: int, width: int) -> Query:
    torch.manual_seed(1)
    return Query(torch.rand(1, 3, height, width), logit(1), "image", rule=rule)


def answer(model: Prepared, rule: Rule, height: int, width: int) -> Answer:
    (found,) = differentiate(model, [Part(query(rule, height, width), range(1))])
    assert found.image_grad is not None
    assert found.image_grad.abs().max() > 0
    return found


@pytest.mark.parametrize("rule", [Relevance(), Relevance(input="flat"), Relevance("epsilon"), "guided", "deconvnet"])
def test_rules_are_refused_at_the_sizes_where_they_do_not_apply(model: Prepared, rule: Rule) -> None:
    assert not model.card.relevance_refused
    assert not model.card.rules_refused
    for size in (OWN, NEAR):
        answer(model, rule, *size)
    answer(model, "plain", *OTHER)
    with pytest.raises(NotApplicable, match=r"on an input of 24x32 .*SiLU.*; send a picture of 16x16"):
        answer(model, rule, *OTHER)


def test_rules_apply_at_other_sizes_of_a_network_that_goes_one_way() -> None:
    network = prepared("squeezenet1_1")
    for rule in (Relevance(), "guided"):
        answer(network, rule, 48, 80)


def test_other_rows_of_the_pass_are_answered(model: Prepared) -> None:
    def steps(rule: Rule) -> Steps:
        return (yield query(rule, *OTHER))

    engine = Engine({"model": model})
    for rule in ("plain", "guided"):
        engine.submit(Job(rule, "model", lambda job, rule=rule: steps(rule)))  # type: ignore[misc]
    ended: dict[str, Ended] = {}
    while not engine.idle:
        ended |= {event.job.id: event for event in engine.step() if isinstance(event, Ended)}
    assert ended["plain"].result.finite
    assert isinstance(ended["guided"].error, NotApplicable)
