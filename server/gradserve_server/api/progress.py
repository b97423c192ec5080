"""The progress of RPCs with many steps, as messages. Everything here runs in threads."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from gradserve.v1 import progress_pb2

from ..methods.image_run import Snapshot
from ..pool.wire import Preview, Task
from .errors import Violations
from .pictures.images import png

MIN_MESSAGE_SECONDS = 0.25  # The least seconds between two messages.
MIN_MAP_SECONDS = 1.0  # The same for two messages about one map, which are larger.
MAX_SNAPSHOTS = 32
PREVIEW_JPEG_QUALITY = 80


def progress(preview: Preview) -> progress_pb2.Progress:
    """A worker's preview as a message."""
    return progress_pb2.Progress(
        step=preview.step,
        steps=preview.steps,
        losses=[progress_pb2.LossPart(name=name, value=value) for name, value in preview.losses.items()],
        previews=[_jpeg(image) for image in preview.images],
    )


def with_progress(task: Task) -> Task:
    """The same task, with reports of its progress."""
    return replace(task, report_every=MIN_MAP_SECONDS if task.rpc == "explain" else MIN_MESSAGE_SECONDS)


def check_snapshots(steps: Sequence[int], total: int, violations: Violations) -> tuple[int, ...]:
    """The steps after which pictures are kept; too many, or one that is never reached, are a violation."""
    if len(steps) > MAX_SNAPSHOTS or any(step > total for step in steps):
        text = f"must be at most {MAX_SNAPSHOTS} steps from 0 to {total}"
        violations.add("snapshots", text, for_every_model=True)
    return tuple(steps)


def curves(losses: Mapping[str, np.ndarray[Any, Any]]) -> list[progress_pb2.Curve]:
    """Losses by name, [steps], as messages."""
    return [progress_pb2.Curve(name=name, values=values.tolist()) for name, values in losses.items()]


def snapshots(images: Iterable[Snapshot]) -> list[progress_pb2.Snapshot]:
    """Pictures after some of the steps, as messages."""
    return [progress_pb2.Snapshot(step=each.step, png=png(each.pixels)) for each in images]


def _jpeg(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=PREVIEW_JPEG_QUALITY)
    return file.getvalue()
