"""A sticker that is trained to work wherever it is put."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ..parameters import Degrees, Fraction, Iterations, Restarts
from .ball import Ball
from .oracle import Oracle

FINAL_TRIALS = 32  # Random places, or random changes, in which the finished picture is measured.


def patch(
    x: Tensor,
    oracle: Oracle,
    ball: Ball,
    run: MethodContext,
    *,
    size: Fraction = 0.3,
    steps: Iterations = 100,
    places: Restarts = 8,
    rotation: Degrees = 20.0,
    rate: Fraction = 0.05,
) -> Steps:
    """Signed steps up the mean loss over random places and turns (Brown et al. 2017). Notes the sticker."""
    side = max(1, round(size * min(x.shape[2:])))
    sticker = 0.5 + 0.1 * (run.noise(0, x[:, :, :side, :side], uniform=True) - 0.5)
    rng, run.asked = run.generator(1), steps
    for step in range(steps):
        sticker = sticker.detach().requires_grad_()
        images = placed(sticker, x, places, rotation, rng)
        evaluation = yield from oracle.climb(images.detach(), step)
        if oracle.done:
            break
        (grad,) = torch.autograd.grad(images, sticker, evaluation.grad)
        sticker = (sticker + rate * grad.sign()).clamp(0, 1)
        run.completed(range(1))
    whole = ((sticker.detach() * 255).round() / 255).clamp(0, 1)
    oracle.notes["patch"] = (whole[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    evaluation = yield from oracle.scores(placed(whole, x, FINAL_TRIALS, rotation, rng), steps)
    oracle.notes["success_rate"] = float((evaluation.reached > 0.5).double().mean())


def placed(sticker: Tensor, x: Tensor, count: int, rotation: float, rng: np.random.Generator) -> Tensor:
    """x with the sticker [1, 3, s, s] at random places within it, turned at random: [count, 3, H, W]."""
    height, width, side = x.shape[2], x.shape[3], sticker.shape[2]
    angles = np.deg2rad(rng.uniform(-rotation, rotation, count)) if rotation else np.zeros(count)
    # Half the side of the box around the turned sticker.
    reach = side / 2 * (abs(np.cos(angles)) + abs(np.sin(angles)))
    y, z = (_centres(reach, length, rng) for length in (height, width))
    theta = np.zeros((count, 2, 3))  # From the picture's coordinates in [-1, 1] to the sticker's.
    cos, sin = np.cos(angles), np.sin(angles)
    theta[:, 0, 0], theta[:, 0, 1] = cos * width / side, sin * height / side
    theta[:, 1, 0], theta[:, 1, 1] = -sin * width / side, cos * height / side
    middle = np.stack([2 * z / width - 1, 2 * y / height - 1], 1)
    theta[:, :, 2] = -np.einsum("nij,nj->ni", theta[:, :, :2], middle)
    grid = F.affine_grid(torch.from_numpy(theta).to(x), [count, 3, height, width], align_corners=False)
    inside = (grid.abs() <= 1).all(3).unsqueeze(1)
    drawn = F.grid_sample(sticker.expand(count, -1, -1, -1), grid, padding_mode="border", align_corners=False)
    return torch.where(inside, drawn, x)


def _centres(reach: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Random centres of boxes that reach so far to each side and stay within 0..length; the middle for larger ones."""
    room = np.maximum(length - 2 * reach, 0)
    centres: np.ndarray = length / 2 + (rng.random(len(reach)) - 0.5) * room
    return centres
