"""Finding what a network's outputs mean, and refusing what cannot be known or contradicts the catalogue."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .behaviour import Unservable
from .card import HeadKind
from .endings import APPLIED, Ending, Endings, Found
from .outputs import PLAIN, Head, logits_of

SUM_TOLERANCE = 1e-4  # by which probabilities may miss a sum of 1
SAME = 1e-5  # by which a softmax or sigmoid of recovered scores may miss the network's own output
STRETCHES = (-30.0, 30.0, 1000.0)  # factors that take a picture far beyond black and white

NO_SCORES = (
    "it gives whole numbers ({dtype}), which are decisions and no scores; let it return the logits that it decides by"
)
ONE_NUMBER = (
    "it gives a single number for an image, and it is not known what that means; if it is the logit of a yes-or-no "
    'question, write head = "binary" into its entry, with labels = [NO, YES]; a number that is no logit (of a '
    "regression) cannot be served"
)
ONE_SOFTMAX = (
    "it ends in a softmax over a single output, which is 1 for every image; let it return the logit itself, with "
    'head = "binary"'
)
ONE_DECLARED = 'its entry says head = "{declared}", but it has a single output; that is head = "binary"'
ONE_FRACTION = (
    "its single output stays within [0, 1] even for pictures far beyond black and white, so that it looks like a "
    "probability, but it does not come out of torch.sigmoid; let it return the logit itself, or torch.sigmoid of it"
)
MANY_BINARY = (
    'its entry says head = "binary", but it has {count} outputs; binary is a single logit; leave head out for classes '
    'that exclude each other, or write head = "multilabel" for independent labels'
)
SOFTMAX_DECLARED = (
    'its entry says head = "{declared}", but its outputs are probabilities that sum to 1; leave head out, or let it '
    "return logits"
)
SIGMOID_DECLARED = (
    'its entry says head = "softmax", but it ends in a sigmoid of each output, so that its classes are independent; '
    'write head = "multilabel", or let it return logits'
)
FRACTIONS = (
    "its outputs stay within [0, 1] even for pictures far beyond black and white and do not sum to 1: they look like "
    "probabilities of independent labels, but they do not come out of torch.sigmoid; let it return the logits, with "
    'head = "multilabel" in its entry, or torch.sigmoid of them; scores of classes that exclude each other need '
    'head = "softmax"'
)


def find_head(network: nn.Module, images: Tensor, declared: HeadKind | None) -> Head:
    """The head of a network in eval mode, tried on normalised images [N, C, H, W].

    What is no [N] or [N, outputs] is left to `examine`. Raises Unservable where the catalogue's `declared` contradicts
    what is found, or where it is missing and must be there.
    """
    with torch.no_grad(), Endings() as endings:
        output = logits_of(network(images.clone()))
    if output.dim() not in (1, 2) or len(output) != len(images) or 0 in output.shape:
        return PLAIN
    if not output.is_floating_point():
        raise Unservable(NO_SCORES.format(dtype=str(output.dtype).removeprefix("torch.")))
    found = _verified(endings.of(output), output)
    if output.numel() == len(images):
        return _of_one(network, images, output.reshape(-1, 1), found, declared)
    return PLAIN if output.dim() == 1 else _of_many(network, images, output, found, declared)


def _verified(found: Found | None, output: Tensor) -> Ending | None:
    """The ending, if it makes this output of the scores that were recovered."""
    if found is None or found.scores.shape != output.shape:
        return None
    rows = found.scores.reshape(len(output), -1)
    again = APPLIED[found.ending](rows).reshape(output.shape)
    return found.ending if torch.allclose(again, output, rtol=SAME, atol=SAME, equal_nan=True) else None


def _of_one(
    network: nn.Module, images: Tensor, output: Tensor, ending: Ending | None, declared: HeadKind | None
) -> Head:
    """The head of a network with a single output [N, 1]."""
    if ending in ("softmax", "log_softmax"):
        raise Unservable(ONE_SOFTMAX)
    if declared in ("softmax", "multilabel"):
        raise Unservable(ONE_DECLARED.format(declared=declared))
    if ending is None and declared is None:
        raise Unservable(ONE_NUMBER)
    if ending is None and _stays_in_unit(network, images, output):
        raise Unservable(ONE_FRACTION)
    return Head("binary", ending, single=True)


def _of_many(
    network: nn.Module, images: Tensor, output: Tensor, ending: Ending | None, declared: HeadKind | None
) -> Head:
    """The head of a network with several outputs [N, C]."""
    exclusive = ending in ("softmax", "log_softmax")
    probabilities = ending is None and _sums_to_one(output)
    if declared == "multilabel" and (exclusive or probabilities):
        raise Unservable(SOFTMAX_DECLARED.format(declared=declared))
    if declared == "binary":
        raise Unservable(MANY_BINARY.format(count=output.shape[1]))
    if exclusive or probabilities:
        return Head("softmax", ending, from_probabilities=probabilities)
    if ending is not None:
        if declared == "softmax":
            raise Unservable(SIGMOID_DECLARED)
        return Head("multilabel", ending)
    if declared != "softmax" and _stays_in_unit(network, images, output):
        raise Unservable(FRACTIONS)
    return Head(declared or "softmax")


def _sums_to_one(output: Tensor) -> bool:
    sums = output.sum(1)
    return bool((output >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), rtol=0, atol=SUM_TOLERANCE)


def _in_unit(output: Tensor) -> bool:
    return bool(((output >= 0) & (output <= 1)).all())


def _stays_in_unit(network: nn.Module, images: Tensor, output: Tensor) -> bool:
    """Whether outputs that differ between images are within [0, 1] for whatever image."""
    if not _in_unit(output) or torch.equal(output, output[:1].expand_as(output)):
        return False
    stretched = list(_stretched(network, images))
    return bool(stretched) and all(map(_in_unit, stretched))


def _stretched(network: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """The outputs for images of far larger values, as far as the network takes them."""
    for factor in STRETCHES:
        with contextlib.suppress(Exception), torch.no_grad():
            yield logits_of(network(images * factor))
