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
    """Squares at the edge of the ball, kept where they raise the loss (Andriushchenko et al. 2020, algorithm 1).

    With a mask they are drawn as for a picture of the size of the smallest box around it.
    """
    rng, run.asked, run.unit = run.generator(0), queries, "queries"
    stripes = torch.from_numpy(rng.choice([-1.0, 1.0], (1, 3, 1, x.shape[3]))).to(x)
    best = ball.project(x + (ball.eps or 0) * stripes, x)
    evaluation = yield from oracle.scores(best, 0)
    run.completed(range(1))
    value, step = float(evaluation.value[0]), 0
    while run.done < queries and not oracle.done:
        step += 1
        count = min(candidates, queries - run.done)
        area = share / 2 ** sum(10_000 * run.done / queries > bound for bound in HALVING_POINTS)
        images = torch.cat([ball.project(_with_square(best, x, ball, area, rng), x) for _ in range(count)])
        evaluation = yield from oracle.scores(images, step)
        run.completed(range(count))
        best_row = int(evaluation.value.argmax())
        if float(evaluation.value[best_row]) > value:
            best, value = images[best_row : best_row + 1], float(evaluation.value[best_row])


def _with_square(best: Tensor, x: Tensor, ball: Ball, area: float, rng: np.random.Generator) -> Tensor:
    """One window set to plus or minus eps, a sign for each channel."""
    window = (..., *_window(x, ball, area, rng))
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], (1, 3, 1, 1))).to(x)
    candidate = best.clone()
    candidate[window] = x[window] + (ball.eps or 0) * signs
    return candidate


def _window(x: Tensor, ball: Ball, area: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a random square that covers a share of the picture, or of the box around the mask.

    One that misses the mask would change nothing: it is moved to where it covers a random pixel of the mask.
    """
    top, left, *sizes = ball.box or (0, 0, *x.shape[2:])
    side = max(1, min(round((area * sizes[0] * sizes[1]) ** 0.5), sizes[0] - 1, sizes[1] - 1))
    ranges = [(first, first + size - side) for first, size in zip((top, left), sizes, strict=True)]
    y, z = (rng.integers(low, high + 1) for low, high in ranges)
    if ball.mask is not None and not ball.mask[y : y + side, z : z + side].any():
        pixel = rng.choice(np.argwhere(ball.mask))
        near = [(max(low, at - side + 1), min(high, at)) for at, (low, high) in zip(pixel, ranges, strict=True)]
        y, z = (rng.integers(low, high + 1) for low, high in near)
    return slice(y, y + side), slice(z, z + side)
