"""How a network behaves, tried before it is served: is it repeatable, and does it take images one by one?"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .outputs import described, logits_of, run
from .uses import tensors_in

TOLERANCE = 2e-3  # of the largest logit; sums in another order and the ReLUs that they flip stay below
ROWS = 4  # kinds of pictures that `varied` makes
READS = {
    *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__bool__, Tensor.__float__, Tensor.__int__),
    *(Tensor.__index__, Tensor.__contains__, Tensor.equal, Tensor.allclose, Tensor.is_nonzero),
    *(torch.is_nonzero, torch.equal, torch.allclose),
}  # what gives a program numbers to decide by

RANDOM = (
    "two passes over the same image give different logits, even in eval mode: something in its forward is random "
    "(a dropout with training=True?) or remembers earlier images; make it follow the module's mode"
)
NOT_FINITE = (
    "all its logits are infinite or NaN, for every test image; look at its weights, and at mean and std in its entry"
)
READING = (
    "its forward reads numbers from its input ({}) and may decide by them, which is right only for one image at a "
    "time; compute with tensors instead"
)
DEPENDENT = (
    "an image's logits depend on the other images of its batch, even in eval mode (a BatchNorm without running "
    "statistics? a mean or maximum over the whole batch?); let it compute every image by itself"
)


class Unservable(ValueError):
    """A network whose answers would depend on chance or on the caller's company; the message says what to change."""


@dataclass(frozen=True)
class Behaviour:
    """What must be known of a network that can be served. Both texts are empty for most networks."""

    no_gradient: str = ""  # why its logits cannot be differentiated by the image
    alone: str = ""  # why every image needs a pass of its own


def varied(height: int, width: int, seed: int = 0) -> Tensor:
    """Images [4, 3, H, W] in [0, 1] that differ in brightness and contrast, the same at every call with one seed."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(ROWS, 3, 5, 5, generator=generator)
    blots = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noise = torch.rand(ROWS, 3, height, width, generator=generator)
    darkest = torch.tensor([0.0, 0.0, 0.0, 0.75]).view(ROWS, 1, 1, 1)
    contrast = torch.tensor([0.9, 0.2, 0.15, 0.2]).view(ROWS, 1, 1, 1)
    share = torch.tensor([0.1, 0.9, 0.3, 0.3]).view(ROWS, 1, 1, 1)  # of noise
    return darkest + contrast * ((1 - share) * blots + share * noise)


def examine(network: nn.Module, images: Tensor) -> Behaviour:
    """Tries a network in eval mode on normalised images [4, C, H, W]. Raises Unservable, NoLogits."""
    with torch.no_grad():
        together = run(network, images)
        if together.dim() != 2 or together.shape[0] != len(images):
            size = "x".join(map(str, images.shape[2:]))
            raise Unservable(
                f"it returns {described(together)} for {len(images)} images of {size}, and must return a score for "
                "each class, [images, classes]; add pooling and a last layer, or wrap it"
            )
        if not together.isfinite().any(1).any():
            raise Unservable(NOT_FINITE)
        bound = TOLERANCE * float(together.abs().max())
        alone = [run(network, image) for image in images.split(1)]
        again, reads = _watched(network, images[:1])
        if _apart(again, alone[0]) > bound:
            raise Unservable(RANDOM)
        if not reads and _apart(torch.cat(alone), together) > bound:
            raise Unservable(DEPENDENT)
    return Behaviour(_no_gradient(network, images[:1]), reads)


def _apart(first: Tensor, second: Tensor) -> float:
    """The largest difference; two numbers that are both not finite count as equal."""
    both = first.isfinite() | second.isfinite()
    return float((first - second)[both].abs().nan_to_num(torch.inf).amax()) if both.any() else 0.0


def _no_gradient(network: nn.Module, image: Tensor) -> str:
    with torch.enable_grad():
        image = image.detach().requires_grad_()
        try:
            logits = run(network, image)
            by_image = torch.autograd.grad(logits.sum(), image, allow_unused=True)[0] if logits.requires_grad else None
        except RuntimeError as error:
            return f"its backward pass fails: {error}"
    if by_image is not None:
        return ""
    return (
        "its logits cannot be differentiated by the image, since a part of its forward runs under torch.no_grad or "
        "inference_mode, detaches its result or leaves torch; without that it has gradients, and as it is Predict, "
        "occlusion and attacks by scores work"
    )


def _watched(network: nn.Module, image: Tensor) -> tuple[Tensor, str]:
    """The logits, and what the network reads of its input, in words; empty for most networks."""
    reads = _Reads(image)
    with reads:
        logits = logits_of(network(reads.image))
    functions = ", ".join(sorted(reads.found))
    return logits, READING.format(functions) if functions else ""


class _Reads(TorchFunctionMode):
    """Notes which functions give Python numbers that depend on the image."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image.clone()
        self.found: set[str] = set()
        self._derived: dict[int, Tensor] = {id(self.image): self.image}  # kept alive, so that no id is used again

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls, and notes what depends on the image."""
        result = func(*args, **(kwargs or {}))
        if any(id(tensor) in self._derived for tensor in tensors_in((args, kwargs))):
            if func in READS:
                self.found.add(func.__name__.strip("_"))
            self._derived |= {id(tensor): tensor for tensor in tensors_in(result)}
        return result
