"""The whole pass of a network as a straight line of operations, forward and backward, without autograd in between.

Where nobody listens to layers and no rule changes the ReLUs, every pass takes the same operations. They are written
down once for the model's own size and put together as far as the bits stay the same: max-pooling before its ReLU,
ReLUs, sums and masks in place.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .rewrite import improve, split
from .tape import MORE, NotStraight, forget, record

log = logging.getLogger(__name__)

BETWEEN_ROWS = 3  # rows; what grows with the square of the rows shows there
Network = Callable[[Tensor], Tensor]


class Line:
    """A network's pass over images of one size, for as many rows as it was tried with."""

    def __init__(self, network: Network, classes: int, size: tuple[int, int], dtype: torch.dtype, most: int) -> None:
        """Raises NotStraight where the bits would not be those of `network`, and what the network raises."""
        if most < MORE:
            raise NotStraight(f"passes of {most} rows are too small")

        def examples(rows: int) -> tuple[Tensor, Tensor]:
            generator = torch.Generator().manual_seed(rows)
            images = torch.rand(rows, 3, *size, generator=generator, dtype=dtype)
            images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
            return images, torch.rand(rows, classes, generator=generator, dtype=dtype)

        def same(rows: int) -> bool:
            given = examples(rows)
            return _same(both(self, *given), both(network, *given))

        seen = record(lambda images, upstream: both(network, images, upstream), examples)
        try:
            improve(seen.graph)
            self._look, self._forward, self._backward = split(seen.graph, seen.constants)
        finally:
            forget(seen.graph)
        if not (same(BETWEEN_ROWS) and same(most)):
            raise NotStraight("its bits are not those of the plain pass")
        self._size, self._most = size, most
        try:
            self._single = same(1)  # some networks take other operations for one row
        except RuntimeError:  # whose memory lies otherwise
            self._single = False
        with torch.no_grad():  # some take others without gradients
            images, _ = examples(BETWEEN_ROWS)
            self._looks = torch.equal(self(images), network(images))

    def fits(self, images: Tensor) -> bool:
        """Whether it can stand for the plain pass."""
        rows, looking = len(images), not (torch.is_grad_enabled() and images.requires_grad)
        enough = 1 < rows <= self._most or (rows == 1 and self._single)
        return enough and images.shape[2:] == self._size and (self._looks or not looking)

    def __call__(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> logits [N, classes], which can be differentiated once."""
        if torch.is_grad_enabled() and images.requires_grad:
            return _Pass.apply(images, self)  # type: ignore[no-any-return]
        return self._look(len(images), images)[0]


def both(network: Network, images: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient by the images."""
    with torch.enable_grad():
        logits = network(images)
        (grad,) = torch.autograd.grad(logits, images, upstream)
    return logits.detach(), grad


def _same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class _Pass(torch.autograd.Function):
    """The line as one operation."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, line: Line) -> Tensor:
        """Keeps what the backward pass needs."""
        logits, *kept = line._forward(len(images), images)
        ctx.line, ctx.rows, ctx.kept = line, len(images), kept
        return logits.detach()  # the logits may be kept as well, and would keep this alive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """By the images."""
        return ctx.line._backward(ctx.rows, grad.contiguous(), ctx.kept)[0], None  # which empties the list as it goes


class Straight:
    """Where a network's line is, once it is made."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._line: Line | None = None

    def get(self, network: nn.Module, images: Tensor) -> Line | None:
        """The line, if it is this network's and fits."""
        line = self._line if network is self._network else None
        return line if line is not None and line.fits(images) else None

    def make(self, name: str, make: Callable[[], Line]) -> None:
        """Where there can be none, passes go the plain way."""
        try:
            self._line = make()
        except Exception as error:  # whatever a network does
            log.info("%s has no straight line: %s", name, error)
