"""The messages of a worker about its jobs: outcomes, failures and previews."""

import logging
import time
import traceback
from typing import Any

from ..engine.events import Ended, Event, ModelFailed, NotFinite, OutOfMemory
from ..engine.job import Progress, TimeUp
from ..engine.objective import NotApplicable
from ..methods.image_run import as_bytes, pixels, resized
from .wire import Failure, FailureKind, Outcome, Preview

log = logging.getLogger(__name__)

PREVIEW_SIDE = 160  # Pixels of a preview's longer side.
FAILURES: tuple[tuple[type[Exception], FailureKind], ...] = (  # Kinds of failures by the exception.
    (TimeUp, "deadline"),
    (NotApplicable, "refused"),
    (NotFinite, "not_finite"),
    (ModelFailed, "model_failed"),
    (OutOfMemory, "out_of_memory"),
)


def outcome_of(event: Event) -> Outcome | Preview:
    """The message to the front-end about an event of the engine."""
    job = event.job
    if not isinstance(event, Ended):
        return preview(job.id, event.progress, event.answer)
    queued = (job.started or time.monotonic()) - job.arrived
    failure = None if event.error is None else failure_of(event.error)
    if job.timeline is not None:
        job.timeline.started, job.timeline.ended = job.started, time.monotonic()
    return Outcome(job.id, event.result, failure, job.rows, max(0.0, queued), job.compute, job.timeline)


def preview(job_id: str, progress: Progress, answer: Any = None) -> Preview:
    """Progress as a message: plain numbers, small pictures, and a part of the answer."""
    losses = {name: float(value.mean()) for name, value in progress.losses.items()}
    images = progress.images
    if images is not None:
        factor = min(1.0, PREVIEW_SIDE / max(images.shape[2:]))
        images = resized(images, (round(images.shape[2] * factor) or 1, round(images.shape[3] * factor) or 1))
    small = () if images is None else tuple(pixels(image) for image in as_bytes(images))
    return Preview(job_id, progress.step, progress.steps, losses, small, answer)


def failure_of(error: Exception) -> Failure:
    """The failure that stands for an exception. An unexpected one is logged here, with its traceback."""
    for kind, name in FAILURES:
        if isinstance(error, kind):
            return Failure(name, str(error))
    log.error("a method failed: %s", "".join(traceback.format_exception(error)))
    return Failure("internal", f"{type(error).__name__}: {error}")
