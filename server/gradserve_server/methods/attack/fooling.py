"""Pictures of nothing that the model is sure of."""

from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ..parameters import Fraction, Iterations
from .ball import Ball
from .oracle import Oracle

Population = Annotated[int, Field(ge=4, le=1000)]
Cells = Annotated[int, Field(ge=2, le=64)]
ELITE_SHARE = 0.25  # The share of a generation that lives on and has children.
MUTATION_SHARE = 0.05  # The share of a child's cells that change.
MUTATION_STD = 0.25


def fooling(
    x: Tensor,
    oracle: Oracle,
    ball: Ball,
    run: MethodContext,
    *,
    confidence: Fraction = 0.99,
    population: Population = 64,
    generations: Iterations = 200,
    cells: Cells = 16,
) -> Steps:
    """Evolves coarse random pictures by crossing and mutation (Nguyen et al. 2015, section 2)."""
    oracle.goal = replace(oracle.goal, confidence=confidence)
    rng, run.asked, run.unit = run.generator(0), generations, "generations"
    genomes = rng.random((population, 3, cells, cells))
    fitness = yield from _fitness(genomes, x, oracle, run, 0)
    elite = max(2, round(ELITE_SHARE * population))
    for generation in range(1, generations + 1):
        if oracle.done:
            return
        order = np.argsort(-fitness, kind="stable")[:elite]
        genomes, fitness = genomes[order], fitness[order]
        children = _children(genomes, population - elite, rng)
        scored = yield from _fitness(children, x, oracle, run, generation)
        genomes, fitness = np.concatenate([genomes, children]), np.concatenate([fitness, scored])
        run.completed(range(1))


def _children(parents: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Children that have each cell from one of two parents; some cells are then changed at random."""
    one, two = (parents[rng.integers(0, len(parents), count)] for _ in range(2))
    shape = (count, 1, *one.shape[2:])
    children = np.where(rng.random(shape) < 0.5, one, two)
    changes = np.where(rng.random(shape) < MUTATION_SHARE, rng.normal(0, MUTATION_STD, children.shape), 0)
    return (children + changes).clip(0, 1)


def _fitness(genomes: np.ndarray, x: Tensor, oracle: Oracle, run: MethodContext, generation: int) -> Steps:
    """The loss of every genome's picture, drawn smoothly: [n, 3, cells, cells] -> [n]."""
    values = []
    for start in range(0, len(genomes), run.chunk):
        coarse = torch.from_numpy(genomes[start : start + run.chunk]).to(x)
        images = F.interpolate(coarse, x.shape[2:], mode="bicubic", align_corners=False).clamp(0, 1)
        evaluation = yield from oracle.scores(images, generation)
        values.append(evaluation.value)
    return torch.cat(values).cpu().numpy()
