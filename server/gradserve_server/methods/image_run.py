"""What the methods that make images share: how far they came, what they report, and images as bytes."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine.events import NotFinite
from ..engine.job import MethodContext, Progress, TimeUp
from ..engine.query import Query

NOT_MEASURED = (
    "NOT_MEASURED: time was up, or numbers overflowed, before the returned picture itself was measured; its figures "
    "are those of the last step, before it was brought to its size and rounded to 8 bits"
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The image after so many steps, [H, W, 3] uint8."""

    step: int
    pixels: np.ndarray


@dataclass(eq=False)
class Trajectory:
    """One run's course: losses of every step, snapshots, and whether it had to end early."""

    run: MethodContext
    steps: int
    snapshots: frozenset[int] = frozenset()
    ended: bool = False  # The run ended early: its time was up, or numbers overflowed.
    late: bool = False  # Its time was up, so that no further query is answered.
    good: Tensor | None = None  # The last images whose losses were finite.
    curves: list[Mapping[str, Tensor]] = field(default_factory=list)
    kept: list[tuple[int, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run.asked = self.steps

    def ask(self, queries: Sequence[Query]) -> Generator[Any, Any, list[Any] | None]:
        """The answers, or None where time is up or the numbers overflow and there is an image to end with."""
        try:
            answers: list[Any] = yield list(queries)
            return answers
        except TimeUp:
            self.late = True
            if self.good is None:
                raise
            self.run.warn_of_time()
        except NotFinite:
            if self.good is None:
                raise
            if self.run.done < self.steps:
                self.run.warn(
                    f"NOT_FINITE: step {self.run.done + 1} gave infinities or NaN; this is the image before it"
                )
        self.ended = True
        return None

    def step(self, losses: Mapping[str, Tensor], images: Tensor, shown: Tensor | None = None) -> Progress:
        """Notes a step's losses, by name [n], and its images [n, 3, H, W]; `shown`: as callers see them."""
        shown = images if shown is None else shown
        if self.run.done in self.snapshots:
            self.snapshot(shown)
        self.good = images
        self.curves.append({name: loss.detach() for name, loss in losses.items()})
        self.run.completed(range(1))
        return Progress(self.run.done, self.steps, self.curves[-1], shown)

    def snapshot(self, images: Tensor) -> None:
        """Keeps the images as they are after the steps done so far."""
        self.kept.append((self.run.done, as_bytes(images)))

    def curve(self, name: str, row: int) -> np.ndarray:
        """One loss of one image over the steps, [done]."""
        return numbers(torch.stack([losses[name][row] for losses in self.curves]))

    def snapshots_of(self, row: int) -> tuple[Snapshot, ...]:
        """One image's snapshots."""
        return tuple(Snapshot(step, pixels(images[row])) for step, images in self.kept)


def as_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as the bytes of an 8-bit file, uint8."""
    return images.detach().clamp(0, 1).mul(255).round().to(torch.uint8)


def quantized(images: Tensor) -> Tensor:
    """Images in [0, 1], rounded as 8-bit files round them."""
    return as_bytes(images).to(images.dtype) / 255


def pixels(image: Tensor) -> np.ndarray:
    """[3, H, W] uint8 -> [H, W, 3]."""
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def numbers(values: Tensor) -> np.ndarray:
    """The values as a float32 array on the host."""
    return values.detach().float().cpu().numpy()


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [n, 3, H, W] in another height and width, bilinear, antialiased where they shrink."""
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)
