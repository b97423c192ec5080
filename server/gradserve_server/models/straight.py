"""The whole pass of a network as a straight line of operations, forward and backward, without autograd in between.

Where nobody listens to layers and no rule changes the ReLUs, every pass takes the same operations. They are written
down once for each size of images and put together as far as the bits stay the same: ReLU within the convolution before
it, max-pooling before its ReLU, sums and masks in place.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .rewrite import improve, split
from .tape import NotStraight, record

log = logging.getLogger(__name__)

WORTH = 3  # passes of one size before it is written down
MOST = 16  # sizes that get one; they come from callers, who may name any
FORGET = 1000  # sizes that are counted
Network = Callable[[Tensor], Tensor]


class Line:
    """A network's pass over images of one size, any number of them."""

    def __init__(self, network: Network, classes: int, height: int, width: int, dtype: torch.dtype) -> None:
        """Raises NotStraight where the bits would not be those of `network`, and what the network raises."""

        def examples(rows: int) -> tuple[Tensor, Tensor]:
            generator = torch.Generator().manual_seed(rows)
            images = torch.rand(rows, 3, height, width, generator=generator, dtype=dtype)
            images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
            return images, torch.rand(rows, classes, generator=generator, dtype=dtype)

        def plain(images: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
            return both(network, images, upstream)

        seen = record(plain, examples)
        improve(seen.graph)
        self._look, self._forward, self._backward = split(seen.graph, seen.constants)
        self._single = True
        if not _same(both(self, *seen.inputs), seen.outputs):
            raise NotStraight("its bits are not those of the plain pass")
        one = examples(1)  # for which some networks take other operations
        self._single = _same(both(self, *one), plain(*one))

    def fits(self, rows: int) -> bool:
        """Whether it can stand for the plain pass over so many."""
        return rows > 1 or self._single

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
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """By the images."""
        kept, ctx.kept = ctx.kept, None
        return ctx.line._backward(ctx.rows, grad, *kept)[0], None


class Lines:
    """A network's lines, each made when its size has come up often enough."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], Line | None] = {}  # None: it was no good
        self._seen: Counter[tuple[int, int]] = Counter()

    def get(self, images: Tensor) -> Line | None:
        """The line for such images, if there is one."""
        line = self._made.get((images.shape[2], images.shape[3]))
        return line if line is not None and line.fits(len(images)) else None

    def expect(self, height: int, width: int, make: Callable[[], Line]) -> None:
        """Counts a pass of that size, and makes its line when that pays."""
        size = (height, width)
        if size in self._made or len(self._made) >= MOST:
            return
        if len(self._seen) > FORGET:
            self._seen.clear()
        self._seen[size] += 1
        if self._seen[size] >= WORTH:
            self._made[size] = _tried(make)


def _tried(make: Callable[[], Line]) -> Line | None:
    try:
        return make()
    except Exception as error:  # whatever a network does, or memory that is short for a moment
        log.info("passes go the plain way: %s", error)
        return None
