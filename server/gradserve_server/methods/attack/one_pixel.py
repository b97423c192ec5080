"""Attacks on a few pixels, by differential evolution."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ..parameters import Iterations
from .ball import Ball
from .oracle import Oracle

Pixels = Annotated[int, Field(ge=1, le=16)]
Population = Annotated[int, Field(ge=5, le=1000)]
DIFFERENCE_WEIGHT = 0.5  # The weight of the difference between two parents.


def one_pixel(
    x: Tensor,
    oracle: Oracle,
    ball: Ball,
    run: MethodContext,
    *,
    pixels: Pixels = 1,
    population: Population = 400,
    generations: Iterations = 100,
) -> Steps:
    """Position and colour of each pixel evolve; a child takes its parent's place if it scores higher (Su et al. 2019).

    A genome is [pixels, 5]: y and x as fractions of the picture, then red, green and blue.
    """
    rng, run.asked, run.unit = run.generator(0), generations, "generations"
    place, colour = rng.random((population, pixels, 2)), rng.normal(0.5, 0.5, (population, pixels, 3))
    parents = np.concatenate([place, colour], 2).clip(0, 1)
    fitness = yield from _fitness(parents, x, oracle, run, 0)
    for generation in range(1, generations + 1):
        if oracle.done:
            return
        one, two, three = (parents[choice] for choice in _triples(population, rng).T)
        children = (one + DIFFERENCE_WEIGHT * (two - three)).clip(0, 1)
        scored = yield from _fitness(children, x, oracle, run, generation)
        better = scored > fitness
        parents[better], fitness[better] = children[better], scored[better]
        run.completed(range(1))


def _triples(count: int, rng: np.random.Generator) -> np.ndarray:
    """For each of `count` three different others, [count, 3]."""
    shuffled = rng.random((count, count - 1)).argsort(1)[:, :3]
    return shuffled + (shuffled >= np.arange(count)[:, None])  # This skips the member itself.


def _fitness(genomes: np.ndarray, x: Tensor, oracle: Oracle, run: MethodContext, generation: int) -> Steps:
    """The loss of every genome's picture, [n]."""
    values = []
    for start in range(0, len(genomes), run.chunk):
        evaluation = yield from oracle.scores(drawn(genomes[start : start + run.chunk], x), generation)
        values.append(evaluation.value)
    return torch.cat(values).cpu().numpy()


def drawn(genomes: np.ndarray, x: Tensor) -> Tensor:
    """The pictures [n, 3, H, W] of genomes [n, pixels, 5], colours in whole levels."""
    height, width = x.shape[2:]
    y = np.minimum((genomes[..., 0] * height).astype(np.int64), height - 1)
    z = np.minimum((genomes[..., 1] * width).astype(np.int64), width - 1)
    colours = torch.from_numpy((genomes[..., 2:] * 255).round() / 255).to(x)
    images = x.repeat(len(genomes), 1, 1, 1)
    rows = np.arange(len(genomes))[:, None]
    images[rows, :, y, z] = colours
    return images
