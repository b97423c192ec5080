"""The scores of objectives for all rows of a batch; terms of one kind and layer are computed together."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.card import HeadKind
from .objective import NotApplicable, Objective, Term

DLR_FLOOR = 1e-12  # Smallest divisor, so that DLR is finite where the best logits are equal.


def ranking(logits: Tensor) -> Tensor:
    """The classes of each row by falling logit, [n, classes]; among equal logits the lower class comes first."""
    return logits.argsort(stable=True, dim=1, descending=True)


def gram(out: Tensor) -> Tensor:
    """F F^T / (h w) of maps: [n, C, h, w] -> [n, C, C]."""
    vectors = out.permute(0, 2, 3, 1).flatten(1, 2)  # Maps in channels_last are not copied by this.
    return vectors.transpose(1, 2) @ vectors / vectors.shape[1]


def _layer(out: Tensor, _: Tensor) -> Tensor:
    return out.square().flatten(1).mean(1)


def _direction(out: Tensor, goal: Tensor) -> Tensor:
    along = torch.einsum("nc...,nc->n...", out, goal)
    return along.flatten(1).mean(1) if along.dim() > 1 else along


def _similarity(out: Tensor, goal: Tensor) -> Tensor:
    return F.cosine_similarity(averaged(out), goal)


def averaged(out: Tensor) -> Tensor:
    """The mean of each channel over its map, [n, C, h, w] -> [n, C]; vectors as they are."""
    return out if out.dim() == 2 else out.mean((2, 3))


def _content(out: Tensor, goal: Tensor) -> Tensor:
    if out.shape != goal.shape:
        raise NotApplicable("the layer's size differs from its target's; name another layer")
    return (out - goal).square().flatten(1).sum(1)


def _style(out: Tensor, goal: Tensor) -> Tensor:
    return (gram(out) - goal).square().sum((1, 2))


def _logit(out: Tensor, index: Tensor) -> Tensor:
    return out.gather(1, index).squeeze(1)


def log_probabilities(logits: Tensor, head: HeadKind = "softmax") -> Tensor:
    """The log-probability of each class, [n, classes] -> [n, classes]: by softmax, or by sigmoid for other heads."""
    return F.log_softmax(logits, 1) if head == "softmax" else F.logsigmoid(logits)


def _log_prob(out: Tensor, index: Tensor) -> Tensor:
    return log_probabilities(out).gather(1, index).squeeze(1)


def _log_sigmoid(out: Tensor, index: Tensor) -> Tensor:
    return F.logsigmoid(_logit(out, index))


def _probability(out: Tensor, index: Tensor) -> Tensor:
    return _log_prob(out, index).exp()


def _probability_margin(out: Tensor, index: Tensor) -> Tensor:
    return margins(log_probabilities(out).exp(), index)


def _sigmoid(out: Tensor, index: Tensor) -> Tensor:
    return _logit(out, index).sigmoid()


def _log_odds(out: Tensor, index: Tensor) -> Tensor:
    others = out.scatter(1, index, -torch.inf)
    return _logit(out, index) - torch.logsumexp(others, 1)


def margins(logits: Tensor, labels: Tensor, head: HeadKind = "softmax") -> Tensor:
    """How far each row's class is from not being predicted, in logits: [n, classes], [n, 1] -> [n].

    With a softmax that is the class's logit less the best other logit, otherwise the logit alone.
    """
    if head != "softmax":
        return _logit(logits, labels)
    return _logit(logits, labels) - logits.scatter(1, labels, float("-inf")).amax(1)


def _dlr(out: Tensor, index: Tensor) -> Tensor:
    best = out.topk(3).values
    return margins(out, index) / (best[:, 0] - best[:, 2] + DLR_FLOOR)


def _targeted_dlr(out: Tensor, index: Tensor) -> Tensor:
    best = out.topk(4).values
    between = _logit(out, index[:, :1]) - _logit(out, index[:, 1:])
    return between / (best[:, 0] - (best[:, 2] + best[:, 3]) / 2 + DLR_FLOOR)


def _unit(out: Tensor, index: Tensor) -> Tensor:
    _check_inside(index[:, 1:], out.shape[2:])
    flat = (index[:, 0] * out.shape[2] + index[:, 1]) * out.shape[3] + index[:, 2]
    return out.reshape(len(out), -1).gather(1, flat.unsqueeze(1)).squeeze(1)


def _channel(out: Tensor, index: Tensor) -> Tensor:
    if out.dim() == 2:
        return _logit(out, index)
    picked = out.gather(1, index.view(-1, 1, 1, 1).expand(-1, 1, *out.shape[2:]))  # Indexing has a slow backward.
    return picked.mean((1, 2, 3))


def _check_inside(index: Tensor, shape: Sequence[int]) -> None:
    if (index >= torch.tensor(list(shape), device=index.device)).any():
        size = "x".join(map(str, shape))
        raise NotApplicable(
            f"unit {tuple(index.max(0).values.tolist())} lies outside the layer's {size} map on this input; "
            "name a position inside"
        )


def _by_rank(of_class: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda out, index: of_class(out, ranking(out.detach()).gather(1, index))


SCORES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logit": _logit,
    "ranked": _by_rank(_logit),
    "log_prob": _log_prob,
    "probability": _probability,
    "probability_margin": _probability_margin,
    "ranked_log_prob": _by_rank(_log_prob),
    "log_odds": _log_odds,
    "ranked_log_odds": _by_rank(_log_odds),
    "margin": margins,
    "dlr": _dlr,
    "targeted_dlr": _targeted_dlr,
    "unit": _unit,
    "channel": _channel,
    "layer": _layer,
    "direction": _direction,  # From here on, scores take goals instead of indices.
    "similarity": _similarity,
    "content": _content,
    "style": _style,
}
SIGMOID_SCORES = {  # Scores that replace those above for heads whose probabilities are sigmoids.
    "log_prob": _log_sigmoid,
    "probability": _sigmoid,
    "probability_margin": _sigmoid,
    "ranked_log_prob": _by_rank(_log_sigmoid),
    "log_odds": _logit,
    "ranked_log_odds": _by_rank(_logit),
    "margin": _logit,
}


def score(
    objectives: Sequence[tuple[Objective, range]],
    rows: int,
    outputs: Mapping[str, Tensor],
    head: HeadKind = "softmax",
) -> Tensor:
    """The weighted terms of each objective on its rows, [rows, terms]; shorter objectives are filled up with zeros.

    `outputs` are by layer; `outputs[""]` are the logits of a network with that `head`.
    """
    kinds = SCORES if head == "softmax" else {**SCORES, **SIGMOID_SCORES}
    groups: dict[tuple[str, str], list[tuple[int, int, Term]]] = defaultdict(list)
    for objective, span in objectives:
        for column, term in enumerate(objective.terms):
            groups[term.kind, term.layer] += [(row, column, term) for row in span]
    any_output = next(iter(outputs.values()))
    device, dtype = any_output.device, any_output.dtype
    width = max(len(objective.terms) for objective, _ in objectives)
    table = torch.zeros(rows, width, device=device, dtype=dtype)
    for (kind, layer), members in groups.items():
        where, columns, terms = zip(*members, strict=True)
        out = outputs[layer] if where == tuple(range(rows)) else outputs[layer][torch.tensor(where, device=device)]
        goals = [term.goal for term in terms if term.goal is not None]
        details = torch.stack(goals).to(out) if goals else torch.tensor([term.indices for term in terms], device=device)
        scores = kinds[kind](out, details)
        weights = torch.tensor([term.weight for term in terms], device=device, dtype=dtype)
        places = torch.tensor(where, device=device), torch.tensor(columns, device=device)
        table = table.index_put(places, scores * weights)
    return table
