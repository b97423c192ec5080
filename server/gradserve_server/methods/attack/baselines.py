"""Baselines for attacks: random points as far away, and natural disturbances."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ...engine.job import MethodContext, Steps
from .ball import Ball, length, pixels
from .corruptions import corrupt
from .gradient import pgd
from .oracle import Oracle

Points = Annotated[int, Field(ge=1, le=10_000)]
Severity = Annotated[int, Field(ge=1, le=5)]
Kind = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]
Radius = Annotated[float, Field(ge=0, le=1000)]


def sphere(
    x: Tensor, oracle: Oracle, ball: Ball, run: MethodContext, *, points: Points = 1000, radius: Radius = 0.0
) -> Steps:
    """Random points at one L2 distance; radius 0 takes that of a PGD attack. Notes the share that reaches the goal."""
    if not radius:
        attacked = oracle.sibling()
        yield from pgd(x, attacked, ball, run)
        oracle.add_passes(attacked)
        radius = float(length(pixels(ball.encoded(attacked.shown[0], x), x) - x))
        run.done = 0
    run.unit = "points"
    oracle.ball = Ball("l2", radius)
    reached = 0
    for part in run.parts(points):
        directions = torch.cat([oracle.ball.direction(run.noise(i, x)) for i in part])
        evaluation = yield from oracle.scores((x + radius * directions).clamp(0, 1), 0)
        reached += int((evaluation.reached > 0.5).sum())
        run.completed(part)
        oracle.notes["success_rate"] = reached / run.done
        if oracle.done:
            return


def corruption(
    x: Tensor, oracle: Oracle, ball: Ball, run: MethodContext, *, kind: Kind, severity: Severity = 3
) -> Steps:
    """One natural disturbance of ImageNet-C (Hendrycks & Dietterich 2019)."""
    before = (x[0] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    after = torch.from_numpy(corrupt(before, kind, severity, run.seed))
    yield from oracle.scores(pixels(after.permute(2, 0, 1).unsqueeze(0).to(x.device), x), 0)
    run.completed(range(1))
