"""The steps of one octave: draw a view, query its gradient, update the parameters."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...engine.job import Steps
from ...engine.objective import Objective
from ...engine.query import Query
from ..image_run import Trajectory
from ..optimizers import Adam, Descent, Optimizer
from ..regularizers import blurred, clipped, edge_energy, l2, total_variation
from .parameterizations import Fourier, Parameterization, Pixels
from .settings import MaximizeSettings
from .transforms import Views

OBJECTIVE = "objective"
PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "edge_energy": edge_energy,
    "total_variation": total_variation,
    "l2": l2,
}


def penalties_of(settings: MaximizeSettings) -> list[str]:
    """The penalties that have a weight."""
    return [name for name in PENALTIES if getattr(settings, name)]


def ascend(start: Tensor, objectives: Sequence[Objective], settings: MaximizeSettings, record: Trajectory) -> Steps:
    """Raises each image's objective less its penalties, [n, 3, H, W] -> [n, 3, H, W]; ends early with the record."""
    space: Parameterization = Fourier(start) if settings.parameterization == "fourier" else Pixels()
    optimizer = _optimizer(settings)
    views = Views(settings.pad, settings.jitter, settings.scale, settings.rotate, settings.noise)
    at = space.encode(start)
    if settings.start == "noise" and not record.run.done:
        at = space.project(at + settings.spread * record.run.noise(0, at[:1]))
    for step in range(1, settings.steps + 1):
        view = views.draw(record.run.done, start, record.run)
        at = at.detach().requires_grad_()
        images = space.decode(at)
        viewed = view(images)
        rows = [Query(row[None], goal, "image") for row, goal in zip(viewed.detach(), objectives, strict=True)]
        answers = yield from record.ask(rows)
        if answers is None:
            assert record.good is not None, "or asking had raised"
            return record.good
        penalties = {name: getattr(settings, name) * PENALTIES[name](images) for name in penalties_of(settings)}
        value = torch.cat([answer.value for answer in answers])
        climb = torch.cat([answer.image_grad for answer in answers])
        if not record.run.done:
            _warn_of_zero_gradients(climb, record)
        loss = sum(penalties.values(), -(viewed * climb).flatten(1).sum(1))
        grad, by_pixel = torch.autograd.grad(loss.sum(), (at, images))
        yield record.step({OBJECTIVE: value, **penalties}, images.detach())
        at = space.project(optimizer.step(at.detach(), grad, sum(penalties.values(), -value), settings.rate))
        at = _filter(space, at, by_pixel, step, settings)
    return space.decode(at).detach()


def _warn_of_zero_gradients(climb: Tensor, record: Trajectory) -> None:
    for i, row in enumerate(climb):
        if not row.any():
            hint = "start elsewhere, or maximise what comes before the activation that is off"
            record.run.warn(f"ZERO_GRADIENT: goal {i} does not depend on the picture at the start; {hint}")


def _optimizer(settings: MaximizeSettings) -> Optimizer:
    return Adam() if settings.optimizer == "adam" else Descent(normalized=settings.optimizer == "normalized_ascent")


def _filter(space: Parameterization, at: Tensor, by_pixel: Tensor, step: int, settings: MaximizeSettings) -> Tensor:
    """Blurs and clips the image at every `blur_every`-th and `clip_every`-th step."""
    if settings.blur_every and step % settings.blur_every == 0:
        at = space.encode(blurred(space.decode(at), settings.blur_sigma))
    if settings.clip_every and step % settings.clip_every == 0:
        at = space.encode(clipped(space.decode(at), by_pixel, settings.clip_pixels, settings.clip_gradients))
    return at
