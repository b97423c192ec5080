"""The comparison at load: whether a network that was made ready gives what its author's own gives, untouched.

Logits and gradients by the image are compared with those of the untouched network in float64 (where it can be cast to
that), at its own size and at another where it takes one. Rounding is no fault: each bound is the larger of a floor and
three times the error that the untouched network itself makes in the same number format.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from .behaviour import varied
from .casting import cast
from .outputs import PLAIN, Head
from .scales import rounding, scales

Forward = Callable[[Tensor], Tensor]  # images [N, 3, H, W] in [0, 1] -> logits [N, classes]
Format = Literal["double", "exact", "balanced", "fast"]
ERROR_FACTOR = 3  # times the untouched network's own error
MAX_OFF = 1.0  # times a logit's scale; in half precision nothing is left of logits that are further off
MAX_ROUNDING = 1e-2  # of a logit; what is further from its own copy in float64 has no right copy there


class Errors(NamedTuple):
    """The largest error of a logit, by its class's scale; of a gradient's length, by that length (per image)."""

    logits: float
    gradient: float

    def beside(self, bounds: "Errors") -> str:
        """The errors with what is allowed, in words."""
        return (
            f"its logits are off by {self.logits:.2g} (allowed {bounds.logits:.2g}) "
            f"and its gradients by {self.gradient:.2g} (allowed {bounds.gradient:.2g})"
        )

    def within(self, bounds: "Errors") -> bool:
        """False as well where an error is not a number."""
        return self.logits <= bounds.logits and self.gradient <= bounds.gradient


ERROR_FLOORS: Mapping[Format, Errors] = {
    "double": Errors(1e-9, 1e-6),
    "exact": Errors(1e-4, 5e-2),  # a ReLU that flips by rounding moves the gradient by some percent
    "balanced": Errors(1e-4, 1e-1),
    "fast": Errors(1e-1, 5e-1),
}


EPS = {  # of the numbers that logits are stored as
    "double": torch.finfo(torch.float64).eps,
    "exact": torch.finfo(torch.float32).eps,
    "balanced": torch.finfo(torch.float32).eps,
}


class Answers(NamedTuple):
    """Logits [N, classes] and a gradient [N, 3, H, W], both in float64."""

    logits: Tensor
    gradient: Tensor


class Comparison:
    """What a network's answers should be, and how far those of another may be off.

    EXACT is compared over all images; the other formats, which follow it through the same operations, over the last.
    """

    def __init__(
        self, network: nn.Module, normalised: Forward, images: Sequence[Tensor], *, wide: bool, head: Head = PLAIN
    ) -> None:
        """`network` is untouched, in eval mode; `normalised` makes its input of images [N, 3, H, W] in [0, 1].

        `images` has a batch for each size. `wide`: try float64. Keeps answers only, not the network.
        """
        self._head, self._images = head, images
        plain = [_answers(lambda x: head.run(network, normalised(x)), batch) for batch in images]
        exact = _in_double(network, head, normalised, images, plain) if wide else None
        self.in_double = exact is not None
        self._right = plain if exact is None else exact
        each = [_errors(ours, right) for ours, right in zip(plain, self._right, strict=True)]
        self._own = {"exact": _largest(each), "balanced": each[-1], "double": Errors(0, 0)}

    def add_half(self, network: nn.Module, normalised: Forward, half: torch.dtype) -> None:
        """Learns which errors a copy of the untouched network makes in half precision. Raises what it raises there."""
        cast(network, half)
        self._own["fast"] = self.errors("fast", lambda x: self._head.run(network, normalised(x).to(half)).to(x.dtype))

    def errors(self, kind: Format, forward: Forward) -> Errors:
        """Those of another network."""
        chosen = slice(None) if kind == "exact" else slice(-1, None)
        images, right = self._images[chosen], self._right[chosen]
        if kind == "double":
            images = [batch.double() for batch in images]
        found = [_answers(forward, batch) for batch in images]
        return _largest([_errors(ours, theirs) for ours, theirs in zip(found, right, strict=True)])

    def bounds(self, kind: Format) -> Errors:
        """What is allowed."""
        logits, gradient = (
            max(floor, ERROR_FACTOR * own) for floor, own in zip(ERROR_FLOORS[kind], self._own[kind], strict=True)
        )
        if kind == "fast":
            return Errors(min(logits, MAX_OFF), gradient)
        return Errors(max(logits, _rounding(self._right, kind)), gradient)


def _in_double(
    network: nn.Module, head: Head, normalised: Forward, images: Sequence[Tensor], plain: Sequence[Answers]
) -> list[Answers] | None:
    """The answers in float64; None for a network that casts inside, or cannot be copied, or whose copy differs."""
    try:
        copy = cast(deepcopy(network), torch.float64)
        found = [_answers(lambda x: head.run(copy, normalised(x)), batch.double()) for batch in images]
    except Exception:  # whatever a network does
        return None
    errors = [_errors(ours, right) for ours, right in zip(plain, found, strict=True)]
    return found if _largest(errors).logits <= max(MAX_ROUNDING, _rounding(found, "exact")) else None


def _rounding(right: Sequence[Answers], kind: Format) -> float:
    """By how much logits may be off, by their scales, since they are stored in that number format."""
    return max(_by_class(rounding(each.logits, EPS[kind]), each.logits) for each in right)


def _answers(forward: Forward, images: Tensor) -> Answers:
    """The gradient is that of a sum of the logits with weights drawn at random, the same at every call."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = forward(images)
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
        score = (logits * weights).sum()
        by_image = torch.autograd.grad(score, images, allow_unused=True)[0] if score.requires_grad else None
    gradient = torch.zeros_like(images) if by_image is None else by_image
    return Answers(logits.detach().double(), gradient.detach().double())


def _largest(errors: Sequence[Errors]) -> Errors:
    return Errors(max(each.logits for each in errors), max(each.gradient for each in errors))


def _errors(ours: Answers, right: Answers) -> Errors:
    if ours.logits.shape != right.logits.shape:
        return Errors(torch.inf, torch.inf)
    if not all(torch.equal(a.isfinite(), b.isfinite()) for a, b in zip(ours, right, strict=True)):
        return Errors(torch.inf, torch.inf)  # NaN must meet NaN
    logits = _by_class((ours.logits - right.logits).abs(), right.logits)
    size, apart = (
        torch.where(x.isfinite(), x, 0).flatten(1).norm(dim=1) for x in (right.gradient, ours.gradient - right.gradient)
    )
    return Errors(logits, _ratio(apart, size))


def _by_class(apart: Tensor, logits: Tensor) -> float:
    """The largest of these distances by the scales of the classes of `logits`."""
    return _ratio(torch.where(apart.isfinite(), apart, 0), scales(logits))


def _ratio(apart: Tensor, size: Tensor) -> float:
    """The largest; zero where there is no distance."""
    return float(torch.where(apart == 0, 0, apart / size).max())


def batches(own: tuple[int, int], other: tuple[int, int] | None, seed: int) -> list[Tensor]:
    """Images [N, 3, H, W] in [0, 1] to compare by: one of the network's own size, two of another."""
    own_image = varied(*own, seed)[:1]
    return [own_image] if other is None else [own_image, varied(*other, seed)[1:3]]
