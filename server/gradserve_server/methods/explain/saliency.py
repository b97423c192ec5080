"""Maps that are one gradient by the pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ...engine.objective import NotApplicable, Objective
from ...engine.query import Query
from ...models.rules import Rule
from ..parameters import Reduce
from .maps import Map, reduced

LOG_ODDS = {"logit": "log_odds", "ranked": "ranked_log_odds"}  # The kind of term that takes the place of another.


def gradient(
    x: Tensor, target: Objective, run: MethodContext, *, reduce: Reduce = "sum", log_prob: bool = False
) -> Steps:
    """Gradient of the score by the pixels (Simonyan et al. 2013). [1, 3, H, W] -> Map."""
    answer = yield Query(x, _log_odds(target) if log_prob else target, "image")
    run.completed(range(1))
    grad, value = answer.image_grad[0], answer.value[0]
    if log_prob:  # This is (1 - p) d log-odds, which keeps its digits where p rounds to 1.
        grad, value = torch.sigmoid(-value) * grad, F.logsigmoid(value)
    return Map(reduced(grad, reduce), value)


def gradient_x_input(x: Tensor, target: Objective, run: MethodContext, *, reduce: Reduce = "signed") -> Steps:
    """Gradient times pixel values (Shrikumar et al. 2016). [1, 3, H, W] -> Map."""
    answer = yield Query(x, target, "image")
    run.completed(range(1))
    return Map(reduced(answer.image_grad[0] * x[0], reduce), answer.value[0])


def guided_backprop(x: Tensor, target: Objective, run: MethodContext, *, reduce: Reduce = "sum") -> Steps:
    """Gradient masked at every ReLU by its input and by itself (Springenberg et al. 2014). [1, 3, H, W] -> Map."""
    return _ruled(x, target, run, "guided", reduce)


def deconvnet(x: Tensor, target: Objective, run: MethodContext, *, reduce: Reduce = "sum") -> Steps:
    """Gradient masked at every ReLU by itself alone (Zeiler & Fergus 2014). [1, 3, H, W] -> Map."""
    return _ruled(x, target, run, "deconvnet", reduce)


def _ruled(x: Tensor, target: Objective, run: MethodContext, rule: Rule, reduce: Reduce) -> Steps:
    answer = yield Query(x, target, "image", rule=rule)
    run.completed(range(1))
    return Map(reduced(answer.image_grad[0], reduce), answer.value[0])


def _log_odds(target: Objective) -> Objective:
    terms = tuple(term._replace(kind=LOG_ODDS.get(term.kind, "")) for term in target.terms)
    if not all(term.kind for term in terms):
        raise NotApplicable("log_prob applies to class targets only, and the target is a unit")
    return Objective(terms)
