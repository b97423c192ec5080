"""What a stylized picture is compared with: its content's layers, and its styles' Gram matrices."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...engine.job import Job, Steps
from ...engine.objective import NotApplicable, Objective, Term, content, style
from ...engine.query import Query, Tap
from ...engine.scores import gram
from .settings import PIXELS, LayerWeight

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Style(NamedTuple):
    """A style picture [1, 3, H, W] in [0, 1] and its share."""

    picture: Tensor
    weight: float


class Blend(NamedTuple):
    """sum_s w_s |G - G_s|^2 / |G_s|^2 as one square: scale |G - mean|^2 + rest."""

    mean: Tensor
    scale: float
    rest: float


class Targets(NamedTuple):
    """What a picture is compared with, each part without its weight: what the model scores, and what it does not."""

    style: Objective
    style_rest: float
    pixels: Blend | None
    content: Objective

    def objective(self, style_weight: float, content_weight: float) -> Objective:
        """What the model scores: the terms of the style, then those of the content."""
        return style_weight * self.style + content_weight * self.content


def targets(
    job: Job,
    photo: Tensor | None,
    styles: Sequence[Style],
    style_layers: Sequence[LayerWeight],
    content_layers: Sequence[LayerWeight],
    pad: float,
) -> Steps:
    """Runs the style pictures, unless their matrices are cached, and the photo through the model. Returns Targets."""
    inside = [each for each in style_layers if each.layer != PIXELS]
    grams = []
    for each in styles:
        grams.append((yield from _grams(job, each.picture, [layer for layer, _ in inside], pad)))
    shares = [each.weight / sum(style.weight for style in styles) for each in styles]
    share = 1 / sum(each.weight for each in style_layers) if style_layers else 0.0
    terms: list[Term] = []
    rest = 0.0
    for i, (layer, weight) in enumerate(inside if styles else ()):
        blend = blended([matrices[i] for matrices in grams], shares, layer)
        terms += style(layer, blend.mean, share * weight * blend.scale).terms
        rest += share * weight * blend.rest
    pixels = None
    for layer, weight in style_layers if styles else ():
        if layer == PIXELS:
            blend = blended([colours(each.picture)[0] for each in styles], shares, layer)
            pixels = Blend(blend.mean, share * weight * blend.scale, share * weight * blend.rest)
    contents: list[Term] = []
    if photo is not None:
        contents = yield from _content(photo, content_layers, pad)
    return Targets(Objective(tuple(terms)), rest, pixels, Objective(tuple(contents)))


def _grams(job: Job, picture: Tensor, layers: Sequence[str], pad: float) -> Steps:
    """The Gram matrices of a style's layers, cached across jobs."""
    digest = hashlib.sha256(picture.cpu().numpy().tobytes()).digest()
    key = ("style", job.model, job.precision, job.alone, tuple(layers), picture.shape, pad, digest)
    matrices = job.cache.get(key)
    if matrices is None:
        taps = tuple(Tap(layer, reduce=_gram) for layer in layers)
        answer = yield Query(padded(picture, pad), taps=taps)
        matrices = tuple(act[0] for act in answer.acts)
        job.cache.put(key, matrices)
    return matrices


def _gram(act: Tensor, _: Tensor) -> Tensor:
    return gram(act)


def _content(photo: Tensor, layers: Sequence[LayerWeight], pad: float) -> Any:
    answer = yield Query(padded(photo, pad), taps=tuple(Tap(each.layer) for each in layers))
    share = 1 / sum(each.weight for each in layers)
    terms: list[Term] = []
    for (layer, weight), act in zip(layers, answer.acts, strict=True):
        terms += content(layer, act[0].clone(), share * weight / _square(act, layer, "the picture")).terms
    return terms


def blended(grams: Sequence[Tensor], shares: Sequence[float], layer: str) -> Blend:
    """One target for several styles: the loss is quadratic in G, so its weighted sum is one square and a constant."""
    weights = [share / _square(gram, layer, "a style") for gram, share in zip(grams, shares, strict=True)]
    scale = sum(weights)
    mean = sum((weight * gram for weight, gram in zip(weights, grams, strict=True)), torch.zeros_like(grams[0])) / scale
    return Blend(mean, scale, sum(shares) - scale * float(mean.square().sum()))


def _square(target: Tensor, layer: str, whose: str) -> float:
    square = float(target.square().sum())
    if square == 0:
        raise NotApplicable(f"layer {layer!r} is zero for {whose}: there is nothing to compare with; leave it out")
    return square


def colours(images: Tensor) -> Tensor:
    """Mean and covariance of colours: the Gram matrix of pixels with a 1 appended, [n, 3, H, W] -> [n, 4, 4]."""
    return gram(torch.cat([images, torch.ones_like(images[:, :1])], dim=1))


def padded(images: Tensor, pad: float) -> Tensor:
    """The images with a reflected border, `pad` times their shorter side wide.

    Otherwise convolutions without padding leave dots along the edge.
    """
    width = min(round(pad * min(images.shape[2:])), min(images.shape[2:]) - 1)
    return F.pad(images, (width,) * 4, mode="reflect") if width else images


def luminance(images: Tensor) -> Tensor:
    """[n, 3, H, W] -> [n, 1, H, W]."""
    weights = torch.tensor(LUMINANCE, dtype=images.dtype, device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def matched_grey(style: Tensor, content: Tensor) -> Tensor:
    """A style in grey, its luminance brought to the content's mean and spread (Gatys et al. 2017, section 5.1)."""
    ours, theirs = luminance(style), luminance(content)
    grey = (ours - ours.mean()) * (theirs.std(correction=0) / ours.std(correction=0).clamp_min(1e-6)) + theirs.mean()
    return grey.clamp(0, 1).expand(-1, 3, -1, -1)


def recoloured(images: Tensor, content: Tensor) -> Tensor:
    """The images' luminance with the content's colours."""
    return (content + luminance(images) - luminance(content)).clamp(0, 1)
