"""Stylize: a picture with the content of one and the style of others (Gatys et al. 2016)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engine.job import Job, Steps
from ...engine.query import Query
from ..making import Record, Snapshot, as_bytes, pixels, quantized, resized
from ..optimizers import LBFGS, Adam, Optimizer
from ..regularizers import GREY, roughness
from .settings import PIXELS, LayerWeight, Settings, default_content_layers, default_style_layers
from .targets import Style, Targets, colours, luminance, matched_grey, padded, recoloured, targets

__all__ = ["PIXELS", "LayerWeight", "Settings", "Stylized", "default_content_layers", "default_style_layers", "stylize"]

BETAS = (0.9, 0.99)
SLOWEST = 0.1  # of the rate, that it falls to along a cosine
NOISE = 0.1  # standard deviation of the starting noise
STYLE, CONTENT, VARIATION = "style", "content", "total_variation"


@dataclass(frozen=True, slots=True)
class Stylized:
    """The picture as uint8 [H, W, 3]; its losses without their weights, on those bytes and at the start."""

    pixels: np.ndarray
    losses: dict[str, float]
    initial: dict[str, float]
    curves: dict[str, np.ndarray]
    snapshots: tuple[Snapshot, ...]
    asked: int
    done: int
    warnings: tuple[str, ...]


def stylize(
    job: Job,
    x: Tensor,
    *,
    has_content: bool,
    styles: Sequence[tuple[np.ndarray, float]],
    style_layers: Sequence[LayerWeight],
    content_layers: Sequence[LayerWeight],
    settings: Settings,
    snapshots: Sequence[int] = (),
) -> Steps:
    """Makes a picture of the size of [1, 3, H, W], the content or a canvas. Returns Stylized."""
    record = Record(job.run(), settings.total, frozenset(snapshots))
    pictures = [Style(_tensor(picture, x), weight) for picture, weight in styles]
    photo = x if has_content else None
    if settings.keep_colours and has_content:
        photo = luminance(x).expand(-1, 3, -1, -1)
        pictures = [Style(matched_grey(picture, x), weight) for picture, weight in pictures]
    size = (x.shape[2], x.shape[3])
    stages = [(settings.coarse_steps, (math.ceil(size[0] / 2), math.ceil(size[1] / 2))), (settings.steps, size)]
    image = photo if photo is not None and settings.start == "content" else _noise(x, record)
    for steps, stage in stages:
        if not steps:
            continue
        factor = stage[0] / size[0]
        aims = yield from targets(
            job,
            None if photo is None else resized(photo, stage),
            [Style(_scaled(picture, factor), weight) for picture, weight in pictures],
            style_layers,
            content_layers,
            settings,
        )
        image = yield from _descend(resized(image, stage), aims, steps, settings, record)
        if record.ended:
            break
    image = resized(image, size)
    final = quantized(recoloured(image, x) if settings.keep_colours and has_content else image)
    if record.run.done in record.snapshots:
        record.snapshot(final)
    losses = yield from _measured(quantized(image), aims, settings, record)
    return _made(final, losses, settings, record)


def _descend(start: Tensor, aims: Targets, steps: int, settings: Settings, record: Record) -> Steps:
    """Lowers the loss, [1, 3, H, W] -> [1, 3, H, W]; ends early with the record."""
    optimizer: Optimizer = Adam(BETAS) if settings.optimizer == "adam" else LBFGS()
    at = start.contiguous()
    for _ in range(steps):
        at = at.detach().requires_grad_()
        seen = padded(at, settings.pad)
        answers = yield from record.ask([Query(seen.detach(), aims.objective, "image")])
        if answers is None:
            assert record.good is not None, "or asking had raised"
            return record.good
        losses = _losses(at, answers[0].terms, aims, settings)
        own = sum(loss for loss in losses.values() if loss.requires_grad)
        (grad,) = torch.autograd.grad((seen * answers[0].image_grad).sum() + own, at)
        rate = _rate(settings, record.run.done)
        yield record.step(losses, at.detach())
        total = sum(losses.values(), torch.zeros_like(grad[:, 0, 0, 0])).detach()
        at = optimizer.step(at.detach(), grad, total, rate).clamp(0, 1)
    return optimizer.best(at).detach()


def _rate(settings: Settings, done: int) -> float:
    """Adam's falls along one cosine over both resolutions: a fast one would undo at the second what the first gave."""
    if settings.optimizer != "adam":
        return settings.rate
    return settings.rate * (SLOWEST + (1 - SLOWEST) * (1 + math.cos(math.pi * done / settings.total)) / 2)


def _losses(image: Tensor, terms: Tensor, aims: Targets, settings: Settings) -> dict[str, Tensor]:
    """The parts of the loss with their weights, each [1]; only what is scored here has a graph."""
    parts = {}
    style = terms[:, : aims.style_terms].sum(1) + aims.style_rest
    if aims.pixels is not None:
        away = (colours(image) - aims.pixels.mean).square().sum((1, 2))
        style = style + aims.pixels.scale * away + aims.pixels.rest
    if aims.style_terms or aims.pixels is not None:
        parts[STYLE] = style
    if terms.shape[1] > aims.style_terms:
        parts[CONTENT] = terms[:, aims.style_terms :].sum(1)
    if settings.total_variation:
        parts[VARIATION] = settings.total_variation * roughness(image)
    return parts


def _measured(image: Tensor, aims: Targets, settings: Settings, record: Record) -> Steps:
    """The losses of the finished picture; those of the last step where there is no time."""
    if not record.late:
        answers = yield from record.ask([Query(padded(image, settings.pad), aims.objective)])
        if answers is not None:
            return _losses(image, answers[0].terms, aims, settings)
    return record.curves[-1]


def _made(image: Tensor, losses: dict[str, Tensor], settings: Settings, record: Record) -> Stylized:
    run = record.run
    weights = {
        STYLE: settings.style_weight,
        CONTENT: settings.content_weight,
        VARIATION: settings.total_variation,
    }
    return Stylized(
        pixels=pixels(as_bytes(image)[0]),
        losses={name: float(loss) / weights[name] for name, loss in losses.items()},
        initial={name: float(loss) / weights[name] for name, loss in record.curves[0].items()},
        curves={name: record.curve(name, 0) for name in losses},
        snapshots=record.snapshots_of(0),
        asked=run.asked,
        done=run.done,
        warnings=tuple(run.warnings),
    )


def _noise(x: Tensor, record: Record) -> Tensor:
    return (GREY + NOISE * record.run.noise(0, x)).clamp(0, 1)


def _tensor(picture: np.ndarray[Any, Any], like: Tensor) -> Tensor:
    """[H, W, 3], uint8 or float -> [1, 3, H, W] in [0, 1]."""
    values = torch.from_numpy(picture).permute(2, 0, 1)[None].to(like)
    return values / 255 if picture.dtype == np.uint8 else values


def _scaled(picture: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return picture
    return resized(picture, (max(1, round(picture.shape[2] * factor)), max(1, round(picture.shape[3] * factor))))
