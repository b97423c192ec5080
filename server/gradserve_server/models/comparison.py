"""The comparison at load: whether a network that was made ready gives the answers of its author's own.

Logits and gradients by the image are compared with those of the untouched network in float64 (where it can be cast to
that), at its own size and at another where it takes one. Rounding is no fault: each bound is the larger of a floor and
three times the error that the untouched network itself makes in the same number format.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from .behaviour import Unservable, varied
from .casting import cast
from .outputs import PLAIN, Head
from .scales import rounding, scales

Forward = Callable[[Tensor], Tensor]  # Images [N, 3, H, W] in [0, 1] -> logits [N, classes].
Format = Literal["double", "exact", "balanced", "fast"]
ERROR_FACTOR = 3  # Largest error, in multiples of the error that the untouched network itself makes.
MAX_FAST_ERROR = 1.0  # Largest error of a logit in half precision, as a share of its scale.
MAX_DOUBLE_DISTANCE = 1e-2  # Largest distance from float64's logits, by their scale, for those to be the reference.
MAX_GROWN_ROUNDING = 1000  # Largest error by rounding, in multiples of what rounding the pixels alone changes.
CHAOTIC = (
    "it cannot be served: rounding grows so much in it that its logits in fp32 are off by {error:.1%} of their scale, "
    "so that no answer can be trusted; random weights may be why: load trained ones"
)


class Errors(NamedTuple):
    """The largest error of a logit, as a share of its class's scale, and of a gradient, as a share of its norm."""

    logits: float
    gradient: float

    def against(self, bounds: "Errors") -> str:
        """The errors and the bounds, in words."""
        return (
            f"its logits are off by {self.logits:.2g} (allowed {bounds.logits:.2g}) "
            f"and its gradients by {self.gradient:.2g} (allowed {bounds.gradient:.2g})"
        )

    def within(self, bounds: "Errors") -> bool:
        """Whether both errors are within the bounds; False if one is NaN."""
        return self.logits <= bounds.logits and self.gradient <= bounds.gradient


ERROR_FLOORS: Mapping[Format, Errors] = {
    "double": Errors(1e-9, 1e-6),
    "exact": Errors(1e-4, 5e-2),  # A ReLU that flips by rounding changes the gradient by some percent.
    "balanced": Errors(1e-4, 1e-1),
    "fast": Errors(1e-1, 5e-1),
}


EPS = {  # Relative rounding error of the format in which logits are stored.
    "double": torch.finfo(torch.float64).eps,
    "exact": torch.finfo(torch.float32).eps,
    "balanced": torch.finfo(torch.float32).eps,
}


class Answers(NamedTuple):
    """Logits [N, classes] and a gradient [N, 3, H, W], both in float64."""

    logits: Tensor
    gradient: Tensor


class Comparison:
    """The right answers of a network, and how far those of another network may be off.

    EXACT is compared over the batches of all sizes. The other formats run the same operations, and are compared over
    the last batch alone.
    """

    def __init__(
        self, network: nn.Module, normalised: Forward, images: Sequence[Tensor], *, try_double: bool, head: Head = PLAIN
    ) -> None:
        """Computes the answers of an untouched network in eval mode, over a batch of images for each size.

        `normalised` makes the network's input from images [N, 3, H, W] in [0, 1]. `try_double` lets it try float64.
        """
        self._head, self._images = head, images
        plain = [_answers(lambda x: head.run(network, normalised(x)), batch) for batch in images]
        double, self._chaos = _in_double(network, head, normalised, images, plain) if try_double else (None, 0.0)
        self.in_double = double is not None
        self._reference = plain if double is None else double
        each = [_errors(ours, right) for ours, right in zip(plain, self._reference, strict=True)]
        self._own = {"exact": _largest(each), "balanced": each[-1], "double": Errors(0, 0)}

    def add_half(self, network: nn.Module, normalised: Forward, half: torch.dtype) -> None:
        """Measures the errors of a copy of the untouched network in half precision. Raises what the copy raises."""
        cast(network, half)
        self._own["fast"] = self.errors("fast", lambda x: self._head.run(network, normalised(x).to(half)).to(x.dtype))

    def check_rounding(self) -> None:
        """Raises Unservable where rounding alone makes the untouched network's logits in fp32 too wrong."""
        if self._chaos:
            raise Unservable(CHAOTIC.format(error=self._chaos))

    def errors(self, kind: Format, forward: Forward) -> Errors:
        """The errors of another network in that format."""
        chosen = slice(None) if kind == "exact" else slice(-1, None)
        images, right = self._images[chosen], self._reference[chosen]
        if kind == "double":
            images = [batch.double() for batch in images]
        answers = [_answers(forward, batch) for batch in images]
        return _largest([_errors(ours, theirs) for ours, theirs in zip(answers, right, strict=True)])

    def bounds(self, kind: Format) -> Errors:
        """The largest errors that are allowed in that format."""
        logits, gradient = (
            max(floor, ERROR_FACTOR * own) for floor, own in zip(ERROR_FLOORS[kind], self._own[kind], strict=True)
        )
        if kind == "fast":
            return Errors(min(logits, MAX_FAST_ERROR), gradient)
        return Errors(max(logits, _rounding(self._reference, kind)), gradient)


def _in_double(
    network: nn.Module, head: Head, normalised: Forward, images: Sequence[Tensor], plain: Sequence[Answers]
) -> tuple[list[Answers] | None, float]:
    """The answers of a copy in float64, and the error of fp32's logits by rounding where that is too large.

    The answers are None for a network that casts inside, or cannot be copied, or whose fp32 answers are too far from
    its copy's; the error is 0 where rounding is not the reason.
    """
    try:
        copy = cast(deepcopy(network), torch.float64)
        wide = [_answers(lambda x: head.run(copy, normalised(x)), batch.double()) for batch in images]
        error = _largest([_errors(ours, right) for ours, right in zip(plain, wide, strict=True)]).logits
        if error <= max(MAX_DOUBLE_DISTANCE, _rounding(wide, "exact")):
            return wide, 0.0
        moved = [_answers(lambda x: head.run(copy, normalised(x)), _rounded(batch.double())) for batch in images]
    except Exception:  # A network may raise anything.
        return None, 0.0
    moves = _largest([_errors(other, right) for other, right in zip(moved, wide, strict=True)]).logits
    return None, error if error <= MAX_GROWN_ROUNDING * moves < torch.inf else 0.0


def _rounded(images: Tensor) -> Tensor:
    """Images in float64 with a random error at each pixel, as large as the one that storing it in fp32 makes."""
    errors = torch.rand(images.shape, generator=torch.Generator().manual_seed(0), dtype=images.dtype) - 0.5
    return images * (1 + EPS["exact"] * errors.to(images.device))


def _rounding(right: Sequence[Answers], kind: Format) -> float:
    """The largest error of a logit, as a share of its scale, that comes from storing it in that number format."""
    return max(_by_class(rounding(each.logits, EPS[kind]), each.logits) for each in right)


def _answers(forward: Forward, images: Tensor) -> Answers:
    """Logits, and the gradient of their sum with random weights, which are the same at every call."""
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
        return Errors(torch.inf, torch.inf)  # What is not finite in one must be so in the other.
    logits = _by_class((ours.logits - right.logits).abs(), right.logits)
    size, distance = (
        torch.where(x.isfinite(), x, 0).flatten(1).norm(dim=1) for x in (right.gradient, ours.gradient - right.gradient)
    )
    return Errors(logits, _ratio(distance, size))


def _by_class(distances: Tensor, logits: Tensor) -> float:
    """The largest of the distances [N, classes], each divided by the scale of its class in `logits`."""
    return _ratio(torch.where(distances.isfinite(), distances, 0), scales(logits))


def _ratio(distances: Tensor, sizes: Tensor) -> float:
    """The largest ratio of a distance to its size; a distance of 0 has the ratio 0, whatever the size."""
    return float(torch.where(distances == 0, 0, distances / sizes).max())


def batches(own: tuple[int, int], other: tuple[int, int] | None, seed: int) -> list[Tensor]:
    """The batches to compare by, in [0, 1]: [1, 3, H, W] of the network's own size, and [2, 3, h, w] of another."""
    own_image = varied(*own, seed)[:1]
    return [own_image] if other is None else [own_image, varied(*other, seed)[1:3]]
