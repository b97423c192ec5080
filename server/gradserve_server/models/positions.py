"""Networks that give a score for each position, as for segmentation: [N, classes, h, w] becomes logits [N, classes].

A hook on the network takes the mean over all positions, or, for rows with a region, the sum or the mean of the scores
weighted by it. So all that reads logits, at load and in the engine, takes such a network like any other.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAMES = ("out", "logits")  # What torchvision and Transformers call the scores in an output with several tensors.
PROBABILITIES = (
    "a network that gives a score for each position, [images, classes, h, w], must give logits of several classes "
    "there and no probabilities"
)
NO_RELEVANCE = "it gives a score for each position, and relevance is not propagated through sums over positions"
NOTE = (
    "POSITIONS: it gives a score for each position: Explain and Attack take the region of which a class's scores are "
    "summed; other calls do not apply"
)


class PositionWeights(NamedTuple):
    """What the scores of positions are multiplied by before they are summed."""

    weights: Tensor  # [H, W], of the network's input.
    averaged: bool  # Whether the weights are divided by their sum at the output's positions, which gives the mean.


class _Rows(NamedTuple):
    """The weights of all rows of a pass."""

    weights: Tensor  # [N, H, W]
    averaged: Tensor  # [N], bool


_regions: ContextVar[_Rows | None] = ContextVar("regions", default=None)


class PositionScores:
    """The hook that makes logits [N, classes] of a network's scores of positions."""

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> Tensor | None:
        """The mean over the positions, or the sums or means of the regions; None leaves an output as it is."""
        scores, rows = scores_of(output), _regions.get()
        if scores is None:
            return None
        scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
        if rows is None:
            return scores.mean((2, 3))
        weights, averaged = rows.weights.to(scores), rows.averaged.to(scores.device)[:, None, None]
        if weights.shape[1:] != scores.shape[2:]:  # A position counts by the share of it that is in the region.
            weights = F.interpolate(weights[:, None], scores.shape[2:], mode="area")[:, 0]
        weights = torch.where(averaged, weights / weights.sum((1, 2), keepdim=True), weights)
        return (scores * weights[:, None]).sum((2, 3))


def scores_of(output: Any) -> Tensor | None:
    """The scores [N, classes, h, w] in an output: itself, or one of NAMES in a dict without scores of images."""
    if isinstance(output, Tensor):
        return output if _has_positions(output) else None
    if not isinstance(output, Mapping):
        return None
    tensors = {name: value for name, value in output.items() if isinstance(value, Tensor)}
    if any(value.dim() == 2 or value.shape[2:] == (1, 1) for value in tensors.values()):
        return None  # This is a classifier that gives its features too.
    named = [tensors[name] for name in NAMES if name in tensors]
    return named[0] if named and all(map(_has_positions, named)) else None


def _has_positions(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.shape[2:].numel() > 1


def pool_positions(network: nn.Module, shape: tuple[int, int, int], labels: Sequence[str]) -> bool:
    """Gives a network the hook where its output for images [C, H, W] has scores of positions; whether it did.

    Without labels of its entry, an output of the images' own shape is taken for other images.
    """
    with contextlib.suppress(Exception), torch.no_grad():  # A network that fails is told of where it is examined.
        blank = torch.zeros(2, *shape).to(next(network.parameters()))
        output = network(blank)
        scores = None if has_positions(network) else scores_of(output)
        if scores is None or (output is scores and scores.shape[1:] == shape and not labels):
            return False
        network.register_forward_hook(PositionScores())
        return True
    return False


def has_positions(network: nn.Module) -> bool:
    """Whether the network has got the hook."""
    return any(isinstance(hook, PositionScores) for hook in network._forward_hooks.values())


@contextlib.contextmanager
def summed_over(regions: Sequence[PositionWeights | None], height: int, width: int) -> Iterator[None]:
    """Passes inside give the sums or means by weights [height, width], one for each row; None is the mean of all."""
    if all(region is None for region in regions):
        yield
        return
    first = next(each for each in regions if each is not None).weights  # What is on a GPU stays there.
    everywhere = PositionWeights(first.new_ones(height, width), averaged=True)
    rows = [everywhere if each is None else each for each in regions]
    weights = torch.stack([each.weights for each in rows])
    token = _regions.set(_Rows(weights, torch.tensor([each.averaged for each in rows])))
    try:
        yield
    finally:
        _regions.reset(token)
