"""The Square Attack: random search that only asks for scores."""

from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ..parameters import Fraction, Restarts
from .ball import Ball
from .oracle import Oracle
from .windows import onto_mask, start, with_windows

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
    """Squares at the edge of the ball, kept where they raise the loss (Andriushchenko et al. 2020, algorithms 1 to 3).

    With a mask it works on the smallest box around it as on a picture of that size.
    """
    rng, run.asked, run.unit = run.generator(0), queries, "queries"
    whole, outer = x, ball
    x, ball = x[(..., *outer.box)], replace(outer, mask=None if outer.mask is None else outer.mask[outer.box])
    best = start(x, ball, rng) if ball.norm == "l2" else _striped(x, ball, rng)
    evaluation = yield from oracle.scores(_pasted(best, whole, outer), 0)
    run.completed(range(1))
    value, step = float(evaluation.value[0]), 0
    propose = with_windows if ball.norm == "l2" else _with_square
    while run.done < queries and not oracle.done:
        step += 1
        count = min(candidates, queries - run.done)
        area = share / 2 ** sum(10_000 * run.done / queries > bound for bound in HALVING_POINTS)
        images = torch.cat([ball.project(propose(best, x, ball, area, rng), x) for _ in range(count)])
        evaluation = yield from oracle.scores(_pasted(images, whole, outer), step)
        run.completed(range(count))
        best_row = int(evaluation.value.argmax())
        if float(evaluation.value[best_row]) > value:
            best, value = images[best_row : best_row + 1], float(evaluation.value[best_row])


def _striped(x: Tensor, ball: Ball, rng: np.random.Generator) -> Tensor:
    """Vertical stripes of plus and minus eps, the start in Linf."""
    stripes = torch.from_numpy(rng.choice([-1.0, 1.0], (1, 3, 1, x.shape[3]))).to(x)
    return ball.project(x + (ball.eps or 0) * stripes, x)


def _pasted(images: Tensor, whole: Tensor, ball: Ball) -> Tensor:
    """Images of the box around the mask, [n, 3, h, w], within the original [1, 3, H, W]."""
    if ball.mask is None:
        return images
    pasted = whole.repeat(len(images), 1, 1, 1)
    pasted[(..., *ball.box)] = images
    return pasted


def _with_square(best: Tensor, x: Tensor, ball: Ball, area: float, rng: np.random.Generator) -> Tensor:
    """One window set to plus or minus eps, a sign for each channel."""
    height, width = x.shape[2:]
    side = max(1, min(round((area * height * width) ** 0.5), height - 1, width - 1))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    top, left = onto_mask(top, left, side, ball.mask, rng)
    window = (..., slice(top, top + side), slice(left, left + side))
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], (1, 3, 1, 1))).to(x)
    candidate = best.clone()
    candidate[window] = x[window] + (ball.eps or 0) * signs
    return candidate
