"""Finding what a network's outputs mean, and refusing what cannot be known or contradicts the catalogue."""

import torch
from torch import Tensor, nn

from .behaviour import Unservable
from .card import HeadKind
from .endings import APPLY, POWERS, Ending, Endings, Origin
from .outputs import PLAIN, Head, logits_of
from .positions import PROBABILITIES, has_positions
from .trials import ROUNDED_SUM_TOLERANCE, Trials

RECOVERY_TOLERANCE = 1e-5  # Largest distance of a softmax or sigmoid of recovered scores from the network's output.
MAX_ROUNDINGS = 2  # The same distance in multiples of the coarsest number format's eps, if that is larger.

NO_SCORES = (
    "it gives whole numbers ({dtype}) and nothing between them, which are decisions and no scores; let it return the "
    "logits that it decides by"
)
ONE_NUMBER = (
    "it gives a single number for an image, and it is not known what that means; if it is the logit of a yes-or-no "
    'question, write head = "binary" into its entry, with labels = [NO, YES]; a number that is no logit (of a '
    "regression) cannot be served"
)
ONE_SOFTMAX = (
    "it ends in a softmax over a single output, which says the same for every image; let it return the logit itself, "
    'with head = "binary"'
)
ONE_DECLARED = (
    'its entry says head = "{declared}", but it has a single output; if that is the logit of a yes-or-no question, '
    'write head = "binary"'
)
ONE_FRACTION = (
    "its single output stays within [0, 1] for all test images, even those far beyond black and white, so that it "
    "looks like a probability, but it does not come out of torch.sigmoid; let it return the logit itself (which is "
    "torch.logit(output, eps=1e-6)), or torch.sigmoid of the logit, or both probabilities of a softmax"
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
    "its outputs stay within [0, 1] for all test images, even those far beyond black and white, and do not sum to 1: "
    "they look like probabilities of independent labels, but they do not come out of torch.sigmoid; let it return the "
    'logits (which are torch.logit(outputs, eps=1e-6)), with head = "multilabel" in its entry, or torch.sigmoid of the '
    "logits"
)
BOTH_SIGNS = (
    "its outputs stay within [-1, 1] and come to both ends for strong inputs, as those of a tanh do, so that they are "
    "no logits; let it return the scores before the tanh"
)
# Added to the error where several outputs never leave a range, since they may be scores all the same.
EXCLUSIVE = (
    "; if its classes exclude each other and their scores are meant to be bounded (by a clamp or ReLU6), write "
    'head = "softmax" into its entry'
)
CONSTANT = "its outputs are the same for every test image; look at its weights, and at the dimension of its softmax"
OTHER_SOFTMAX = (
    "its outputs come out of a {ending}, but they are only a part of what that gives, or its dimension is not that of "
    "the classes; let it return all probabilities, of a softmax over the last dimension of [images, classes], or the "
    "logits"
)
SCALED = (
    "its outputs are bounded as those of a softmax or sigmoid are, but not by 0 and 1: they look like probabilities "
    "that were scaled or shifted; let it return the probabilities as they come out of torch.softmax or torch.sigmoid, "
    "or the logits"
)
ALMOST_PROBABILITIES = (
    "its outputs are almost probabilities that sum to 1 (rounded, or in half precision?); let it return the logits"
)
LOGARITHMS = (
    "its outputs never exceed 0, so that they look like logarithms of probabilities; let it return the logits, or "
    "torch.sigmoid of them"
)
ONE_SIGN = (
    "the logits that its entry declares are never {side} 0 for any test image, even those far beyond black and white, "
    "so that the answer is always {answer}, as of a distance or a regression, whose probabilities would be wrong; let "
    "it return logits"
)
REVERSED = (
    "its outputs are the negatives of logarithms of probabilities, so that the best class has the lowest; let it "
    "return the logits"
)


def find_head(network: nn.Module, images: Tensor, declared: HeadKind | None) -> Head:
    """The head of a network in eval mode, tried on normalised images [N, C, H, W].

    Outputs of other shapes than [N] or [N, outputs] are left to `examine`. Raises Unservable where the catalogue's
    `declared` contradicts what is found, where it is missing and must be there, or where the outputs are no scores.
    """
    try:
        head = _find_head(network, images, declared)
    except Unservable as error:
        raise Unservable(
            f"{PROBABILITIES}; of its mean scores: {error}" if has_positions(network) else str(error)
        ) from error
    if has_positions(network) and (head.ending or head.single or head.from_probabilities):
        raise Unservable(PROBABILITIES)
    return head


def _find_head(network: nn.Module, images: Tensor, declared: HeadKind | None) -> Head:
    with torch.no_grad(), Endings() as endings:
        output = logits_of(network(images.clone()))
        origin = endings.of(output)
    if output.dim() not in (1, 2) or len(output) != len(images) or 0 in output.shape:
        return PLAIN
    dtype = str(output.dtype).removeprefix("torch.")
    if not output.is_floating_point():
        raise Unservable(NO_SCORES.format(dtype=dtype))
    if not output.isfinite().any():
        return PLAIN
    single = output.numel() == len(images)
    if not single and output.dim() == 1:
        return PLAIN
    trials = Trials(network, images, output.reshape(len(images), -1))
    ending = origin.ending if origin is not None and _makes(origin, output) else None
    if ending is None and trials.are_decisions():
        raise Unservable(CONSTANT if trials.are_constant() else NO_SCORES.format(dtype=dtype))
    if single:
        return _single(trials, ending, origin, declared)
    return _several(trials, ending, origin, declared)


def _makes(origin: Origin, output: Tensor) -> bool:
    """Whether the ending, applied to the recovered scores, gives this output; logarithms are taken as powers."""
    if origin.scores.shape != output.shape:
        return False
    rows, expected = origin.scores.reshape(len(output), -1), output
    ending = POWERS.get(origin.ending, origin.ending)
    if ending != origin.ending:
        expected = output.exp()
    again = APPLY[ending](rows.float()).reshape(output.shape)
    slack = max(RECOVERY_TOLERANCE, MAX_ROUNDINGS * origin.eps)
    return torch.allclose(again, expected.float(), rtol=slack, atol=slack, equal_nan=True)


def _single(trials: Trials, ending: Ending | None, origin: Origin | None, declared: HeadKind | None) -> Head:
    """The head of a network with a single output [N, 1]. Raises Unservable."""
    if ending in ("softmax", "log_softmax"):
        raise Unservable(ONE_SOFTMAX)
    if declared in ("softmax", "multilabel"):
        raise Unservable(ONE_DECLARED.format(declared=declared))
    if ending is None:
        if trials.stay_in_unit() and not _is_zero(trials):
            raise Unservable(CONSTANT if trials.are_constant() else ONE_FRACTION)
        if origin is not None:
            raise Unservable(OTHER_SOFTMAX.format(ending=origin.ending))
        if declared is None:
            raise Unservable(ONE_NUMBER)
        if fault := _range_fault(trials, exclusive=False):
            raise Unservable(fault)
        return Head("binary", single=True, doubt=_doubt(trials))
    return Head("binary", ending, single=True)


def _several(trials: Trials, ending: Ending | None, origin: Origin | None, declared: HeadKind | None) -> Head:
    """The head of a network with several outputs [N, C]. Raises Unservable."""
    exclusive = ending in ("softmax", "log_softmax")
    probabilities = ending is None and trials.are_probabilities()
    if declared == "multilabel" and (exclusive or probabilities or (ending is None and trials.are_log_probabilities())):
        raise Unservable(SOFTMAX_DECLARED.format(declared=declared))
    if declared == "binary":
        raise Unservable(MANY_BINARY.format(count=trials.output.shape[1]))
    if ending is None:
        _check_scores(trials, origin, declared, probabilities=probabilities)
    if exclusive or probabilities:
        return Head("softmax", ending, from_probabilities=probabilities)
    if ending is not None:
        if declared == "softmax":
            raise Unservable(SIGMOID_DECLARED)
        return Head("multilabel", ending)
    return Head(declared or "softmax", doubt=_doubt(trials) if declared == "multilabel" else "")


def _check_scores(trials: Trials, origin: Origin | None, declared: HeadKind | None, *, probabilities: bool) -> None:
    """Raises Unservable where several outputs without a known ending are neither logits nor `probabilities`."""
    if probabilities and origin is None:
        return
    if origin is not None:
        constant = trials.are_constant() and not probabilities
        raise Unservable(CONSTANT if constant else OTHER_SOFTMAX.format(ending=origin.ending))
    if trials.are_log_probabilities(sign=-1):
        raise Unservable(REVERSED)
    if trials.are_probabilities(ROUNDED_SUM_TOLERANCE):
        raise Unservable(ALMOST_PROBABILITIES)
    if trials.are_scaled_probabilities():
        raise Unservable(SCALED)
    if declared == "softmax":
        return
    if trials.stay_in_unit() and not _is_zero(trials):
        raise Unservable(CONSTANT if trials.are_constant() else FRACTIONS + EXCLUSIVE)
    if fault := _range_fault(trials, exclusive=declared is None):
        raise Unservable(fault + EXCLUSIVE)


def _range_fault(trials: Trials, *, exclusive: bool) -> str:
    """The error for outputs that never leave a range unlike that of logits; `exclusive`: classes may exclude others."""
    if trials.stay_between_zero_and_a_bound():
        return SCALED
    if trials.stay_between_minus_one_and_one():
        return BOTH_SIGNS
    return LOGARITHMS if trials.are_logarithms(exclusive=exclusive) else ""


def _doubt(trials: Trials) -> str:
    """The note on declared logits whose labels are present for every image, or for none."""
    if trials.are_constant():
        return ""
    if trials.have_sign(1):
        return ONE_SIGN.format(side="below", answer="yes")
    return ONE_SIGN.format(side="above", answer="no") if trials.have_sign(-1) else ""


def _is_zero(trials: Trials) -> bool:
    """Whether a last layer of zeros, as some networks start with, gives 0 for every image."""
    return trials.are_constant() and not bool(trials.output.any())
