"""How a network behaves, tried before it is served: is it repeatable, and does it take images one by one?"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .casting import MAX_PARAMETERS_IN_DOUBLE, cast
from .layouts import Call
from .outputs import PLAIN, Head, NoLogits, described
from .rows import LayerRows
from .scales import largest, rounding, scales, spreads
from .uses import tensors_in

# Largest difference of a logit alone and in a batch, as a share of its class's scale. Sums in another order, and the
# ReLUs that they flip, change it by less.
TOLERANCE = 2e-3
MAX_SCALE_PER_SPREAD = 50  # Largest scale of a class, in multiples of its spread over the images.
DOUBLE_TOLERANCE = 1e-6  # TOLERANCE for a network in float64.
REPEAT_TOLERANCE_SHARE = 1e-2  # Share of TOLERANCE for two passes over one batch, which sum in the same order.
# Indices of the trial images in a batch as large as those that the engine runs.
LARGE_BATCH = (2, 0, 3, 1, 1, 3, 0, 2, 0, 1, 2, 3, 3, 2, 1, 0)
PICTURE_KINDS = 4  # How many kinds of pictures `varied` makes.
READING_CALLS = {  # Functions that give a program numbers to decide by.
    *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__bool__, Tensor.__float__, Tensor.__int__),
    *(Tensor.__index__, Tensor.__contains__, Tensor.equal, Tensor.allclose, Tensor.is_nonzero),
    *(torch.is_nonzero, torch.equal, torch.allclose),
}
COUNTING_CALLS = {  # Functions that give a tensor whose shape depends on values.
    *(torch.nonzero, torch.argwhere, torch.masked_select, torch.unique, torch.unique_consecutive),
    *(Tensor.nonzero, Tensor.argwhere, Tensor.masked_select, Tensor.unique, Tensor.unique_consecutive),
}
EPS, EPS_HALF = torch.finfo(torch.float32).eps, torch.finfo(torch.bfloat16).eps
HALF_FORMATS = (torch.bfloat16, torch.float16)
# Functions that differentiate; those of torch.func call them.
AUTOGRAD_CALLS = {torch.autograd.grad, torch.autograd.backward, Tensor.backward}

RANDOM = (
    "two passes over the same image give different logits, even in eval mode: something in its forward is random "
    "(a dropout with training=True?) or remembers earlier images; make it follow the module's mode"
)
NOT_FINITE = (
    "all its logits are infinite or NaN, for every test image; look at its weights, and at mean and std in its entry"
)
NOTHING = "it returns no scores ({shape}); it must return one for each class, [images, classes]"
BACKWARD_FAILS = (
    "its backward pass fails: {error}; compute without writing in place (mul_, x[...] =), and without a part under "
    "torch.inference_mode"
)
READING = (
    "its forward reads numbers from its input ({}) and may decide by them, which is right only for one image at a "
    "time; compute with tensors instead"
)
MIXING = (
    "in a batch, what its layer {layer} gives is not in the order of the images, or mixes several of them, so that "
    "maps and gradients of layers would be those of other images; let every layer give a row for each image, in order"
)
AMPLIFYING = (
    "rounding grows so much in it that an image gets other logits in a batch than alone, in fp32 and not in float64, "
    "and it is served without speed-ups; random weights may be why"
)
DERIVATIVES = (
    "its forward differentiates ({}), which cannot be served: passes that need no gradient run without autograd, and "
    "rules change the gradients of ReLUs; let the builder return a network whose forward does not use autograd"
)
HALF = (
    "its forward computes in {} by itself (torch.autocast, or a cast), so that EXACT is not fp32 throughout; "
    "leave that to the server, which has precisions for it"
)
SHAPES = (
    "it gives {one} for one image and {more} for {count}; it must give [images, classes] for any number of images "
    "(a squeeze() without a dimension?)"
)
DEPENDENT = (
    "an image's logits depend on the other images of its batch, even in eval mode (a BatchNorm without running "
    "statistics? a mean or maximum over the whole batch?); let it compute every image by itself"
)


class Unservable(ValueError):
    """A network whose answers would depend on chance or on the caller's company; the message says what to change."""


class NoClassScores(Unservable):
    """A network that gives no score for each class of an image, [images, classes]."""


@dataclass(frozen=True)
class Behaviour:
    """What must be known of a network that can be served. All texts are empty for most networks."""

    no_gradient: str = ""  # Why its logits cannot be differentiated by the image.
    unbatched: str = ""  # Why every image needs a pass of its own.
    output: str = ""  # What it returns, where that is more than the logits.
    half: str = ""  # Why no precision is fp32 throughout.
    apart: frozenset[Call] = frozenset()  # Module calls that do not give a row for each image.


def varied(height: int, width: int, seed: int = 0) -> Tensor:
    """Images [4, 3, H, W] in [0, 1] that differ in brightness and contrast; one seed always gives the same ones."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(PICTURE_KINDS, 3, 5, 5, generator=generator)
    blots = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noise = torch.rand(PICTURE_KINDS, 3, height, width, generator=generator)
    darkest = torch.tensor([0.0, 0.0, 0.0, 0.75]).view(PICTURE_KINDS, 1, 1, 1)
    contrast = torch.tensor([0.9, 0.2, 0.15, 0.2]).view(PICTURE_KINDS, 1, 1, 1)
    share = torch.tensor([0.1, 0.9, 0.3, 0.3]).view(PICTURE_KINDS, 1, 1, 1)  # How much of each picture is noise.
    return darkest + contrast * ((1 - share) * blots + share * noise)


def trial_images(height: int, width: int) -> Tensor:
    """`varied` images, one of them in black and white alone, for networks that read an image's largest value."""
    images = varied(height, width)
    images[2] = (images[2] > images[2].median()).float()
    return images


def examine(network: nn.Module, images: Tensor, head: Head = PLAIN) -> Behaviour:
    """Tries a network in eval mode on normalised images [4, C, H, W]. Raises Unservable, NoLogits."""
    with torch.no_grad():
        reads, half = watch(network, images[:1], head)
        rows = LayerRows(network)
        alone = [_run_watched(rows, network, images, [i], head) for i in range(len(images))]
        together = _run_watched(rows, network, images, range(len(images)), head)
        if together.dim() != 2 or together.shape[0] != len(images):
            size = "x".join(map(str, images.shape[2:]))
            raise NoClassScores(
                f"it returns {described(together)} for {len(images)} images of {size}, and must return a score for "
                "each class, [images, classes]; add pooling and a last layer, or wrap it; scores of classes at each "
                "position of a picture need labels in its entry where they have the shape of the picture itself"
            )
        if not together.shape[1]:
            raise Unservable(NOTHING.format(shape=list(together.shape)))
        if not together.isfinite().any(1).any():
            raise Unservable(NOT_FINITE)
        if alone[0].shape != together[:1].shape:
            one, more = described(alone[0]), described(together)
            raise Unservable(SHAPES.format(one=one, more=more, count=len(images)))
        again = head.run(network, images[:1])  # By now it may remember the other images.
        bounds, rounded = _bounds(together, half=bool(half)), rounding(together.double(), EPS)
        if _differ(again, alone[0], torch.maximum(bounds * REPEAT_TOLERANCE_SHARE, rounded)):
            raise Unservable(RANDOM)
        many = _run_watched(rows, network, images, LARGE_BATCH, head)  # It may compute larger batches in another way.
        differs = _differ(torch.cat(alone), together, bounds) or _differ(many, together[list(LARGE_BATCH)], bounds)
        doubtful = not reads and (differs or rows.first_mixed)
        in_double = _examined_in_double(network, images, head) if doubtful else None
        if not reads and (differs if in_double is None else in_double.depends):
            raise Unservable(DEPENDENT)
        output = network(images[:1].clone())
    more = "" if isinstance(output, Tensor) else described(output)
    first_mixed = rows.first_mixed if in_double is None else in_double.first_mixed
    mixes = MIXING.format(layer=first_mixed) if first_mixed else ""
    unbatched = reads or mixes or (AMPLIFYING if differs else "")
    return Behaviour(_no_gradient(network, images[:1], head), unbatched, more, half, frozenset(rows.apart))


class _InDouble(NamedTuple):
    """What a network still does in float64, where rounding explains nothing."""

    depends: bool  # Whether an image's logits depend on the other images of its batch.
    first_mixed: str  # The name of the first layer whose rows are mixed; empty if there is none.


def _examined_in_double(network: nn.Module, images: Tensor, head: Head) -> _InDouble | None:
    """Examines a copy of the network in float64; None if it cannot be copied or casts inside."""
    if sum(each.numel() for each in network.parameters()) > MAX_PARAMETERS_IN_DOUBLE:
        return None
    try:
        copy, images = cast(deepcopy(network), torch.float64), images.double()
        rows = LayerRows(copy)
        alone = torch.cat([_run_watched(rows, copy, images, [i], head) for i in range(len(images))])
        batches = [
            (chosen, _run_watched(rows, copy, images, chosen, head)) for chosen in (range(len(images)), LARGE_BATCH)
        ]
    except Exception:  # A network that works in one number format alone may raise anything.
        return None
    bounds = DOUBLE_TOLERANCE * scales(alone)
    depends = any(_differ(found, alone[list(chosen)], bounds) for chosen, found in batches)
    return _InDouble(depends, rows.first_mixed)


def _run_watched(rows: LayerRows, network: nn.Module, images: Tensor, chosen: Sequence[int], head: Head) -> Tensor:
    """The logits of the chosen images in one batch, while `rows` watches the layers."""
    with rows.watching(chosen):
        return head.run(network, images[list(chosen)])


def _bounds(logits: Tensor, *, half: bool) -> Tensor:
    """The largest difference that each class may show [classes]; `half`: the network computes in half precision."""
    logits = logits.double()
    varying = torch.minimum(scales(logits), MAX_SCALE_PER_SPREAD * spreads(logits))
    rounded = torch.minimum(rounding(logits, EPS_HALF if half else EPS), TOLERANCE * largest(logits))
    return torch.maximum(TOLERANCE * varying, rounded)


def _differ(first: Tensor, second: Tensor, bounds: Tensor) -> bool:
    """Whether logits differ by more than the bounds; two numbers that are both not finite count as equal."""
    either = first.isfinite() | second.isfinite()
    distance = (first - second).abs().nan_to_num(torch.inf, torch.inf)
    return bool(((distance > bounds) & either).any())


def _no_gradient(network: nn.Module, image: Tensor, head: Head) -> str:
    """Why its logits have no gradient by the image; empty if they have. Raises Unservable where computing it fails."""
    with torch.enable_grad():
        image = image.detach().requires_grad_()
        try:
            logits = head.run(network, image)
            by_image = torch.autograd.grad(logits.sum(), image, allow_unused=True)[0] if logits.requires_grad else None
        except (NoLogits, torch.OutOfMemoryError):
            raise
        except Exception as error:  # Both torch and a backward of the author's own may raise anything.
            text = str(error).split(" Hint:")[0]  # The hint tells how to debug with torch, which is of no use here.
            raise Unservable(BACKWARD_FAILS.format(error=text)) from error
    if by_image is not None:
        return ""
    return (
        "its logits cannot be differentiated by the image, since a part of its forward runs under torch.no_grad or "
        "inference_mode, detaches its result, leaves torch or uses what has no derivative (argmax, comparisons); "
        "without that it has gradients, and as it is Predict, maps by hidden parts and attacks by scores work"
    )


def watch(network: nn.Module, image: Tensor, head: Head = PLAIN) -> tuple[str, str]:
    """What the network reads of its input, and in which half precisions it computes, in words. Raises Unservable."""
    with _CallWatch(network) as notes:
        head.run(network, image)
    reads, halves = (", ".join(sorted(names)) for names in (notes.reads, notes.halves))
    return READING.format(reads) if reads else "", HALF.format(halves) if halves else ""


class _CallWatch(TorchFunctionMode):
    """Notes which functions give Python numbers or shapes that may depend on the image, and which give halves.

    A tensor may depend on the image unless it is made of the network's own tensors and constants alone. What comes out
    of TorchScript or vmap is noticed only when it is used. Raises Unservable for functions of autograd.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.reads: set[str] = set()
        self.halves: set[str] = set()
        own = tensors_in([vars(module) for module in network.modules()])
        self._constant = {id(tensor): tensor for tensor in own}  # By id, with the tensor so that its id stays taken.

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls, and notes what may depend on the image."""
        kwargs = kwargs or {}
        if func in AUTOGRAD_CALLS:
            raise Unservable(DERIVATIVES.format(f"torch.autograd.{func.__name__}"))
        result = func(*args, **kwargs)
        if all(id(tensor) in self._constant for tensor in tensors_in((args, kwargs))):
            self._constant |= {id(tensor): tensor for tensor in tensors_in(result)}
            return result
        if func in READING_CALLS or func in COUNTING_CALLS or self._picks(func, args, kwargs):
            self.reads.add(func.__name__.strip("_"))
        self.halves |= {str(x.dtype).removeprefix("torch.") for x in tensors_in(result) if x.dtype in HALF_FORMATS}
        if _writes(func, kwargs):
            for tensor in tensors_in((args[:1], kwargs.get("out"))):
                self._constant.pop(id(tensor), None)
        return result

    def _picks(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether it gives as many items as a mask or condition that may depend on the image has."""
        if func is torch.where:
            return len(args) + len(kwargs) == 1
        masks = tensors_in(args[1:]) if func is Tensor.__getitem__ else ()
        return any(mask.dtype in (torch.bool, torch.uint8) and id(mask) not in self._constant for mask in masks)


def _writes(func: Any, kwargs: Any) -> bool:
    """Whether a function writes over its first argument or a given output."""
    name = func.__name__
    special = name.endswith("__")
    return "out" in kwargs or (name == "__setitem__" or name.startswith("__i") if special else name.endswith("_"))
