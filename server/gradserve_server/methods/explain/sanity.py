"""Whether a method's maps depend on what the network has learnt (Adebayo et al. 2018): the logits' weights shuffled.

A map of a class that hardly changes when the weights of the last layer are in another order shows what is in the
picture rather than what speaks for that class. Maps of classes are compared by their sizes, |map|, since the signs of
pixels are as good as random for any network. Maps of contrasts are compared with their signs, which are what tells the
classes apart: under layer-wise relevance propagation the sizes stay and the signs change, under guided backpropagation
neither changes.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engine.job import Job, Steps, together
from ...engine.objective import logit
from ...engine.query import Query
from ...engine.scores import ranking
from .maps import Map

PICTURES = 4
MAX_CORRELATION = 0.6  # Maps that correlate more than this with those of shuffled logits hardly change.
MAX_SAMPLES = 8  # Most samples or steps of a method that is tried.
DISCS = 400  # Discs of a picture.


@dataclass(frozen=True, slots=True)
class Trial:
    """What is to be tried: the layer of the logits, the size of the pictures, and the calls by their numbers."""

    layer: str
    size: tuple[int, int]
    calls: tuple[int, ...]


def tried_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with which a method is tried: those of the call, with fewer samples, steps or positions."""
    fewer = {name: min(parameters[name], MAX_SAMPLES) for name in ("samples", "steps") if name in parameters}
    return {**parameters, **fewer, **({"stride": 1.0} if "stride" in parameters else {})}


def trial_rows(rows: int) -> int:
    """The rows of a trial of a method that takes so many for a map."""
    return PICTURES * (1 + 2 * rows)


def shuffled_correlation(
    job: Job,
    images: Tensor,
    layer: str,
    function: Callable[..., Steps],
    parameters: Mapping[str, Any],
    *,
    contrast: bool = False,
) -> Steps:
    """The mean rank correlation of maps between the network and the one with shuffled logits. Returns a float.

    `layer`: that of the logits. The target of each image of [n, 3, H, W] is the class that the network itself predicts
    for it, with `contrast` less the second, whose maps are compared with their signs. A map that is the same everywhere
    correlates with no other.
    """
    best = ranking((yield Query(images)).logits)[:, :2].tolist()
    runs = []
    for image, (first, second) in zip(images.split(1), best, strict=True):
        target = logit(first) - logit(second) if contrast else logit(first)
        for shuffled in ("", layer):
            run = job.run(beside=2 * len(images))
            runs.append(with_permuted(function(image, target, run, **parameters), shuffled))
    maps: list[Map] = yield from together(runs)
    values = [(each.values if contrast else each.values.abs()).double().cpu().numpy().ravel() for each in maps]
    pairs = zip(values[::2], values[1::2], strict=True)
    return float(np.mean([rank_correlation(trained, shuffled) for trained, shuffled in pairs]))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's; 0 where one of them is constant. Without `scipy.stats`, which front-ends would import too."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value, equal ones sharing the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def with_permuted(steps: Generator[Any, Any, Any], layer: str) -> Steps:
    """Runs a method on a network whose `layer` has its weights' values permuted. Returns its result."""
    resume: Callable[[], Any] = partial(next, steps)
    while True:
        try:
            request = resume()
        except StopIteration as stop:
            return stop.value
        several = [request] if isinstance(request, Query) else list(request)
        placed = [replace(query, permuted=layer) for query in several]
        try:
            answer = yield placed[0] if isinstance(request, Query) else placed
        except Exception as error:
            resume = partial(steps.throw, error)
        else:
            resume = partial(steps.send, answer)


@lru_cache(8)
def natural_pictures(height: int, width: int) -> Tensor:
    """Pictures [PICTURES, 3, H, W] in [0, 1] with the statistics of photos: dead leaves (Lee, Mumford, Huang 2001).

    Discs of random colours, whose radii have a density of r^-3, lie over each other, so that there are objects of every
    size with edges and shades. Nothing in them is of any class.
    """
    rng = np.random.default_rng(0)
    pictures = np.empty((PICTURES, 3, height, width), np.float32)
    low, high = 0.02 * min(height, width), 0.5 * min(height, width)
    for picture in pictures:
        picture[:] = rng.random((3, 1, 1))
        for _ in range(DISCS):
            radius = low / np.sqrt(1 - rng.random() * (1 - (low / high) ** 2))
            _lay_disc(picture, radius, rng)
        picture += rng.normal(0, 0.02, picture.shape)
    return torch.from_numpy(pictures.clip(0, 1))


def _lay_disc(picture: np.ndarray, radius: float, rng: np.random.Generator) -> None:
    """Lays a disc of a random colour with a slight shade over the picture [3, H, W], at a random place."""
    middle = rng.random(2) * picture.shape[1:]
    top, left = np.maximum(0, np.floor(middle - radius)).astype(int)
    bottom, right = np.ceil(middle + radius).astype(int) + 1
    window = picture[:, top:bottom, left:right]
    y, x = np.ogrid[top : top + window.shape[1], left : left + window.shape[2]]
    down, across = (y - middle[0]) / radius, (x - middle[1]) / radius
    slope = rng.normal(0, 0.15, 2)
    disc = rng.random((3, 1, 1)) + (down * slope[0] + across * slope[1])
    np.copyto(window, disc.astype(np.float32), where=down**2 + across**2 <= 1)
