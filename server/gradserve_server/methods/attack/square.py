"""The Square Attack: random search that only asks for scores."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ..parameters import Fraction, Restarts
from .ball import Ball
from .oracle import Oracle
from .windows import start, with_windows

Queries = Annotated[int, Field(ge=2, le=100_000)]
# The squares' area is halved after these shares of the queries, in ten-thousandths.
HALVING_POINTS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
    x: Tensor,
    oracle: Oracle,
    ball: Ball,
    run: MethodContext,
    *,
    queries: Queries = 5000,
    share: Fraction = 0.8,
    candidates: Restarts = 1,
) -> Steps:
    """Squares at the edge of the ball, kept where they raise the loss (Andriushchenko et al. 2020, algorithms 1-3)."""
    rng, run.asked, run.unit = run.generator(0), queries, "queries"
    best = start(x, ball.eps or 0, rng) if ball.norm == "l2" else _striped(x, ball, rng)
    evaluation = yield from oracle.scores(best, 0)
    run.completed(range(1))
    value, step = float(evaluation.value[0]), 0
    propose = with_windows if ball.norm == "l2" else _with_square
    while run.done < queries and not oracle.done:
        step += 1
        count = min(candidates, queries - run.done)
        area = share / 2 ** sum(10_000 * run.done / queries > bound for bound in HALVING_POINTS)
        images = torch.cat([ball.project(propose(best, x, ball.eps or 0, area, rng), x) for _ in range(count)])
        evaluation = yield from oracle.scores(images, step)
        run.completed(range(count))
        best_row = int(evaluation.value.argmax())
        if float(evaluation.value[best_row]) > value:
            best, value = images[best_row : best_row + 1], float(evaluation.value[best_row])


def _striped(x: Tensor, ball: Ball, rng: np.random.Generator) -> Tensor:
    """Vertical stripes of plus and minus eps, the start in Linf."""
    stripes = torch.from_numpy(rng.choice([-1.0, 1.0], (1, 3, 1, x.shape[3]))).to(x)
    return ball.project(x + (ball.eps or 0) * stripes, x)


def _with_square(best: Tensor, x: Tensor, eps: float, area: float, rng: np.random.Generator) -> Tensor:
    """One window set to plus or minus eps, a sign for each channel."""
    height, width = x.shape[2:]
    side = max(1, min(round((area * height * width) ** 0.5), height - 1, width - 1))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    window = (..., slice(top, top + side), slice(left, left + side))
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], (1, 3, 1, 1))).to(x)
    candidate = best.clone()
    candidate[window] = x[window] + eps * signs
    return candidate
