"""Stylize: a picture with the content of one and the style of others (Gatys et al. 2016)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engine.job import Job, Steps
from ...engine.query import Query
from ...models.preprocess import to_batch
from ..image_run import NOT_MEASURED, Snapshot, Trajectory, as_bytes, pixels, quantized, resized
from ..optimizers import LBFGS, Adam, Optimizer
from ..regularizers import MID_GREY, roughness
from .settings import PIXELS, LayerWeight, StylizeSettings, default_content_layers, default_style_layers
from .targets import Style, Targets, colours, luminance, matched_grey, padded, recoloured, targets

__all__ = [
    "PIXELS",
    "LayerWeight",
    "StylizeArguments",
    "StylizeSettings",
    "Stylized",
    "default_content_layers",
    "default_style_layers",
    "stylize",
]

ADAM_BETAS = (0.9, 0.99)
FINAL_RATE_SHARE = 0.1  # The rate falls to this share of itself, along a cosine.
START_NOISE_STD = 0.1
STYLE, CONTENT, VARIATION = "style", "content", "total_variation"


@dataclass(frozen=True, slots=True, eq=False)
class StylizeArguments:
    """Whether the image is the content, the styles [H, W, 3] with their weights, and how they are compared."""

    has_content: bool
    styles: tuple[tuple[np.ndarray, float], ...]
    style_layers: tuple[LayerWeight, ...]
    content_layers: tuple[LayerWeight, ...]
    settings: StylizeSettings
    snapshots: tuple[int, ...] = ()  # Steps after which the picture is kept.


@dataclass(frozen=True, slots=True)
class Stylized:
    """The picture as uint8 [H, W, 3]; its losses without their weights, on those bytes and of what it started from."""

    pixels: np.ndarray
    losses: dict[str, float]
    initial: dict[str, float]
    curves: dict[str, np.ndarray]
    snapshots: tuple[Snapshot, ...]
    asked: int
    done: int
    warnings: tuple[str, ...]


def stylize(job: Job, x: Tensor, arguments: StylizeArguments) -> Steps:
    """Makes a picture of the size of [1, 3, H, W], the content or a canvas. Returns Stylized."""
    has_content, settings = arguments.has_content, arguments.settings
    style_layers, content_layers = arguments.style_layers, arguments.content_layers
    record = Trajectory(job.run(), settings.total, frozenset(arguments.snapshots))
    size, half = (x.shape[2], x.shape[3]), (math.ceil(x.shape[2] / 2), math.ceil(x.shape[3] / 2))
    recolouring = Recolouring(x if settings.keep_colours and has_content else None)
    photo = x if has_content else None
    pictures = [Style(_tensor(picture, x), weight) for picture, weight in arguments.styles]
    if recolouring.colours is not None:
        photo = luminance(x).expand(-1, 3, -1, -1)
        pictures = [Style(matched_grey(picture, x), weight) for picture, weight in pictures]
    if not settings.style_weight:
        pictures = []
    image = photo if photo is not None and settings.start == "content" else _noise(x, record)
    compared = photo if settings.content_weight else None
    aims = yield from targets(job, compared, pictures, style_layers, content_layers, settings.pad)
    initial = yield from _measure(recolouring.apply(image), aims, settings, record)
    for steps, stage in ((settings.coarse_steps, half), (settings.steps, size)):
        if not steps or record.ended:
            continue
        stage_aims = aims
        if stage != size:
            smaller = [Style(_scaled(picture, stage[0] / size[0]), weight) for picture, weight in pictures]
            coarse = None if compared is None else resized(compared, stage)
            stage_aims = yield from targets(job, coarse, smaller, style_layers, content_layers, settings.pad)
        image = yield from _descend(resized(image, stage), stage_aims, steps, settings, record, recolouring)
    final = quantized(recolouring.apply(resized(image, size)))
    if record.run.done in record.snapshots:
        record.snapshot(final)
    losses = yield from _measure_final(final, aims, settings, record)
    return _result(final, losses, initial, record)


@dataclass(frozen=True, slots=True)
class Recolouring:
    """Gives a picture that is being made the colours of the content [1, 3, H, W], or leaves it as it is."""

    colours: Tensor | None

    def apply(self, image: Tensor) -> Tensor:
        """The picture as it would be returned."""
        if self.colours is None:
            return image
        return recoloured(image, resized(self.colours, (image.shape[2], image.shape[3])))


def _descend(
    start: Tensor, aims: Targets, steps: int, settings: StylizeSettings, record: Trajectory, recolouring: Recolouring
) -> Steps:
    """Lowers the loss, [1, 3, H, W] -> [1, 3, H, W]; ends early with the record."""
    optimizer: Optimizer = Adam(ADAM_BETAS) if settings.optimizer == "adam" else LBFGS()
    objective = aims.objective(settings.style_weight, settings.content_weight)
    at = start.contiguous()
    for _ in range(steps):
        at = at.detach().requires_grad_()
        bordered = padded(at, settings.pad)
        answers = yield from record.ask([Query(bordered.detach(), objective, "image")])
        if answers is None:
            assert record.good is not None, "or asking had raised"
            return record.good
        losses = _losses(at, answers[0].terms, aims, _weights(settings))
        own = sum(loss for loss in losses.values() if loss.requires_grad)
        (grad,) = torch.autograd.grad((bordered * answers[0].image_grad).sum() + own, at)
        rate = _rate(settings, record.run.done)
        yield record.step(losses, at.detach(), recolouring.apply(at.detach()))
        total = sum(losses.values(), torch.zeros_like(grad[:, 0, 0, 0])).detach()
        at = optimizer.step(at.detach(), grad, total, rate).clamp(0, 1)
    return optimizer.best(at).detach()


def _rate(settings: StylizeSettings, done: int) -> float:
    """The step's rate. Adam's falls along one cosine over both resolutions, since a high rate at the second resolution
    would undo what the first gave.
    """
    if settings.optimizer != "adam":
        return settings.rate
    return settings.rate * (
        FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * (1 + math.cos(math.pi * done / settings.total)) / 2
    )


def _weights(settings: StylizeSettings) -> dict[str, float]:
    """The parts of the loss that count, with their weights."""
    weights = {
        STYLE: settings.style_weight,
        CONTENT: settings.content_weight,
        VARIATION: settings.total_variation,
    }
    return {part: weight for part, weight in weights.items() if weight}


def _losses(image: Tensor, terms: Tensor, aims: Targets, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The parts of the loss with those weights, each [1]; a part has a graph only if it is computed here."""
    parts, count = {}, len(aims.style.terms)
    if count or aims.pixels is not None:
        style = terms[:, :count].sum(1) + weights[STYLE] * aims.style_rest
        if aims.pixels is not None:
            away = (colours(image) - aims.pixels.mean).square().sum((1, 2))
            style = style + weights[STYLE] * (aims.pixels.scale * away + aims.pixels.rest)
        parts[STYLE] = style
    if aims.content.terms:
        parts[CONTENT] = terms[:, count:].sum(1)
    if VARIATION in weights:
        parts[VARIATION] = weights[VARIATION] * roughness(image)
    return parts


def _measure(image: Tensor, aims: Targets, settings: StylizeSettings, record: Trajectory) -> Steps:
    """The parts of the loss that count, without their weights, of a picture as it is returned; None if time is up."""
    answers = yield from record.ask([Query(padded(image, settings.pad), aims.objective(1.0, 1.0))])
    if answers is None:
        return None
    losses = _losses(image, answers[0].terms, aims, dict.fromkeys(_weights(settings), 1.0))
    return {name: float(loss) for name, loss in losses.items()}


def _measure_final(image: Tensor, aims: Targets, settings: StylizeSettings, record: Trajectory) -> Steps:
    """`_measure` of the finished picture; the last step's losses, with a warning, where it cannot be measured."""
    losses = None if record.late else (yield from _measure(image, aims, settings, record))
    if losses is not None:
        return losses
    record.run.warn(NOT_MEASURED)
    weights = _weights(settings)
    return {name: float(loss) / weights[name] for name, loss in record.curves[-1].items()}


def _result(image: Tensor, losses: dict[str, float], initial: dict[str, float], record: Trajectory) -> Stylized:
    run = record.run
    return Stylized(
        pixels=pixels(as_bytes(image)[0]),
        losses=losses,
        initial=initial,
        curves={name: record.curve(name, 0) for name in losses},
        snapshots=record.snapshots_of(0),
        asked=run.asked,
        done=run.done,
        warnings=tuple(run.warnings),
    )


def _noise(x: Tensor, record: Trajectory) -> Tensor:
    return (MID_GREY + START_NOISE_STD * record.run.noise(0, x)).clamp(0, 1)


def _tensor(picture: np.ndarray[Any, Any], like: Tensor) -> Tensor:
    """[H, W, 3], uint8 or float -> [1, 3, H, W] in [0, 1]."""
    return to_batch(picture[None], like.device, like.dtype)


def _scaled(picture: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return picture
    return resized(picture, (max(1, round(picture.shape[2] * factor)), max(1, round(picture.shape[3] * factor))))
