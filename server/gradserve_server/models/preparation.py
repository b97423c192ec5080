"""Making a network ready to serve, and making sure that it still is the network that its author wrote."""

import contextlib
import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..accel.convolutions import HALF
from ..accel.cpu_mode import KernelCache
from ..accel.half_backward import HalfWeights
from .behaviour import Unservable, examine, trial_images, varied, watched
from .builders import text_of
from .card import ModelCard, Precision
from .casting import MAX_PARAMETERS_IN_DOUBLE, cast
from .catalogue import ModelSpec
from .channels import grey
from .comparison import Comparison, Format, batches
from .description import describe
from .first_pass import first_pass_fault
from .fold import fold_batch_norms, foldable
from .heads import find_head
from .layouts import ROWS
from .loading import LoadError, Source, load
from .outputs import NoLogits, run
from .prepared import Prepared
from .probe import Probe, probe
from .processor import choose
from .state import State, check_unwritten, state_of

log = logging.getLogger(__name__)

SMALLEST_SIDE = 8  # pixels; smaller images are not tried


class Treatment(NamedTuple):
    """What is done to a network to make it faster."""

    fold: bool  # BatchNorm into convolutions
    channels_last: bool  # how images and weights lie in memory


TREATMENTS = (Treatment(True, True), Treatment(True, False), Treatment(False, True), Treatment(False, False))
UNREPEATABLE = (
    "even the untouched network gives such different answers for the same images: rounding grows so much in it that "
    "none can be trusted (random weights may be why)"
)
TREATMENT_NOTES = {  # what the card says where an earlier treatment failed
    Treatment(True, False): "images lie in memory channel by channel, which is slower; otherwise",
    Treatment(False, True): "BatchNorm is not folded into convolutions, which is slower; otherwise",
    Treatment(False, False): "it is served without speed-ups; with them",
}


class Disagreement(ValueError):
    """A network that was made ready does not give what the untouched one gives."""


def prepare(
    spec: ModelSpec, device: torch.device, dtype: torch.dtype = torch.float32, *, fold: bool = True
) -> Prepared:
    """Loads the model and makes it ready. Raises LoadError."""
    return prepare_source(spec, load(spec), device, dtype, fold=fold)


def prepare_source(
    spec: ModelSpec, source: Source, device: torch.device, dtype: torch.dtype, *, fold: bool = True
) -> Prepared:
    """Makes ready a network that is already loaded, in the first of TREATMENTS that leaves its answers as they are.

    `fold`: False leaves BatchNorm as it is and makes the precision EXACT alone. Raises LoadError.
    """
    cast(source.network, dtype, device)
    try:
        return _Preparation(spec, source, device, dtype).run(fold)
    except LoadError:
        raise
    except (Unservable, NoLogits) as error:
        raise LoadError(f"model {spec.name}: {error}") from error
    except Exception as error:
        what = first_pass_fault(spec, source, error, torch.empty(0, device=device, dtype=dtype))
        raise LoadError(f"model {spec.name}: {what}") from error


@dataclass
class _Preparation:
    """One network on its way to being served. Only copies of the source's network are changed."""

    spec: ModelSpec
    source: Source
    device: torch.device
    dtype: torch.dtype

    def run(self, fold: bool) -> Prepared:
        network, size = self.source.network, (self.source.height, self.source.width)
        self.mean, self.std = (
            torch.tensor(v, device=self.device, dtype=self.dtype).view(-1, 1, 1)
            for v in (self.source.mean, self.source.std)
        )
        self.example = self.normalised(self._images(varied(*size))[:ROWS])
        state = state_of(network)
        self.any_size, self.min_size = _sizes(network, self.example[:1])
        self.other_size = self._other_size()
        images = trial_images(*(self.other_size or size))
        self.another = self._images(varied(*(self.other_size or size))[3:])  # is compared with none
        try:
            shown = self.normalised(self._images(images))
            with torch.no_grad():
                watched(network, shown[:1])  # which refuses what no pass can be made of
            self.head = find_head(network, shown, self.spec.head)
            self.behaviour = examine(network, shown, self.head)
        except Unservable:
            self._check_unwritten(state)  # what it writes over says more than what came of it
            raise
        self._check_unwritten(state)
        self.pairs = foldable(network, self.example[:1]) if fold else {}
        fault: Exception | None = None
        for treatment in TREATMENTS if fold else TREATMENTS[2:]:
            try:
                exact = self._treated(treatment)
            except LoadError:
                raise
            except Exception as error:
                fault = error
                log.warning("%s %s: %s", self.spec.name, treatment, error, exc_info=not isinstance(error, Disagreement))
                continue
            if exact is None:
                continue
            if fault is not None:
                note = f"{TREATMENT_NOTES[treatment]} {_words(fault)}"
                exact = replace(exact, card=replace(exact.card, notes=(*exact.card.notes, note)))
            exact = replace(exact, card=replace(exact.card, sample=self._sample(exact)))
            return self._with_others(exact) if fold else replace(exact, kernels=None)
        why = f"; {UNREPEATABLE}" if isinstance(fault, Disagreement) else ""
        raise LoadError(f"model {self.spec.name}: it cannot be served: {fault}{why}")

    def _sample(self, model: Prepared) -> tuple[float, ...]:
        """The logits of a picture that is the same in every process."""
        picture = self._images(varied(model.card.height, model.card.width)[:1])
        with torch.no_grad():
            return tuple(model(picture)[0].tolist())

    def _check_unwritten(self, state: Mapping[str, State]) -> None:
        """Raises Unservable where the network has written over its parameters or buffers since then."""
        with torch.no_grad(), contextlib.suppress(Exception):  # of one that cannot be served already
            run(self.source.network, self.example[1:2])  # what it makes anew for every size is again that of its own
        check_unwritten(self.source.network, state)

    def normalised(self, images: Tensor) -> Tensor:
        """The network's input for images [N, 3, H, W] in [0, 1], in their number format."""
        images = grey(images) if self.source.channels == 1 else images
        return (images - self.mean.to(images)) / self.std.to(images)

    @cached_property
    def comparison(self) -> Comparison:
        """With the untouched network."""
        return self._comparison(seed=0)

    @cached_property
    def second_comparison(self) -> Comparison:
        """The same with other images, for what the first one doubts."""
        return self._comparison(seed=1)

    def _comparison(self, seed: int) -> Comparison:
        network, own = self.source.network, (self.source.height, self.source.width)
        few = sum(p.numel() for p in network.parameters()) <= MAX_PARAMETERS_IN_DOUBLE
        images = [self._images(each) for each in batches(own, self.other_size, seed)]
        return Comparison(network, self.normalised, images, wide=few, head=self.head)

    def _images(self, images: Tensor) -> Tensor:
        return images.to(self.device, self.dtype)

    def _other_size(self) -> tuple[int, int] | None:
        """A smaller size in another aspect, if the network takes one."""
        other = (-(-self.source.height * 3 // 8), -(-self.source.width // 2))
        takes = self.any_size and _takes(self.source.network, self.example, *other)
        return other if takes else None

    def _treated(self, treatment: Treatment) -> Prepared | None:
        """The network in fp32; None where the treatment changes nothing. Raises Disagreement, or what torch raises."""
        if treatment.fold and not self.pairs:
            return None
        network = self._copy() if any(treatment) else self.source.network
        if treatment.fold:
            self._check_in_double()
            fold_batch_norms(network, self.pairs.items())
        example = self.example
        if treatment.channels_last:
            network = network.to(memory_format=torch.channels_last)
            example = example.contiguous(memory_format=torch.channels_last)
        tokens = self.spec.tokens.numbers if self.spec.tokens else None
        seen = probe(network, example, tokens, self.behaviour.apart, self.head)
        card = self._card(seen, self.pairs if treatment.fold else {})
        exact = Prepared(network, card, seen.places, self.mean, self.std, self.head)
        exact = replace(exact, channels_last=treatment.channels_last)
        if self.device.type == "cpu" and any(treatment):
            exact = replace(exact, kernels=KernelCache())
        self._check(exact)
        return exact

    def _copy(self) -> nn.Module:
        """A copy of the untouched network, after a pass that leaves no gradient's history in it: that has no copy."""
        self._leave_another()
        return deepcopy(self.source.network)

    def _leave_another(self) -> None:
        """Runs the network on an image that none is compared with.

        A hook may keep a feature for its forward; in a copy it still writes to the original, and the copy's feature
        stays that of the last image before.
        """
        with torch.no_grad():
            run(self.source.network, self.normalised(self.another))

    def _check_in_double(self) -> None:
        """Whether folding leaves the answers as they are where rounding does not blur them. Raises Disagreement."""
        if self.comparison.in_double:
            network = cast(self._copy(), torch.float64)
            fold_batch_norms(network, self.pairs.items())
            errors = self.comparison.errors("double", lambda x: self.head.run(network, self.normalised(x)))
            bounds = self.comparison.bounds("double")
            if not errors.within(bounds):
                raise Disagreement(f"in float64 {errors.beside(bounds)}")

    def _check(self, model: Prepared) -> None:
        """Raises Disagreement where it shows with two sets of images: chance flips other ReLUs each time."""
        if not self._agrees(model, self.comparison):
            self._agrees(model, self.second_comparison, strict=True)

    def _agrees(self, model: Prepared, comparison: Comparison, *, strict: bool = False) -> bool:
        """Raises Disagreement instead of returning False if it is to be strict."""
        kind: Format = "double" if self.dtype == torch.float64 else model.precision
        self._use(model)
        if kind == "fast":
            comparison.add_half(self._copy(), self.normalised, HALF)
        errors, bounds = comparison.errors(kind, model), comparison.bounds(kind)
        if model.network is self.source.network:
            bounds = bounds._replace(gradient=torch.inf)  # torch's own gradient of the author's own network
        log.debug("%s in %s: %s", self.spec.name, kind, errors.beside(bounds))
        if strict and not errors.within(bounds):
            raise Disagreement(errors.beside(bounds))
        return errors.within(bounds)

    def _with_others(self, exact: Prepared) -> Prepared:
        """With the other precisions that the spec names or the device computes fast, as far as they can be had."""
        choice = choose(self.spec, self.device)
        others: dict[Precision, Prepared] = {}
        absent: dict[Precision, str] = {}
        for precision in choice.loaded:
            if precision == "exact":
                continue
            try:
                others[precision] = self._balanced(exact) if precision == "balanced" else self._fast(exact)
            except Exception as error:
                absent[precision] = f"in {precision.upper()} {_words(error)}"
        for warning in choice.warnings:
            log.warning("%s: %s", self.spec.name, warning)
        card = choice.written(exact.card, absent)
        others = {precision: replace(other, card=card) for precision, other in others.items()}
        return replace(exact, card=card, others=others)

    def _balanced(self, exact: Prepared) -> Prepared:
        """Shares the network."""
        model = replace(exact, precision="balanced", halves=HalfWeights(exact.kernels))
        self._check(model)
        return model

    def _fast(self, exact: Prepared) -> Prepared:
        """A copy of the network in half precision."""
        self._use(exact)
        network = cast(deepcopy(exact.network), HALF)
        kernels = KernelCache() if exact.kernels else None
        model = replace(exact, precision="fast", network=network, kernels=kernels)
        if self.dtype == torch.float32:
            self._check(model)
        return model

    def _use(self, model: Prepared) -> None:
        """Runs it on an image that none is compared with, so that kernels and features kept of it show."""
        with torch.no_grad():
            model(self.another)

    def _card(self, seen: Probe, folded: dict[str, str]) -> ModelCard:
        sizes = (self.any_size, self.min_size)
        return describe(self.spec, self.source, seen, folded, self.behaviour, self.head, sizes)


def _words(fault: Exception) -> str:
    """What went wrong in a treatment or a precision."""
    return str(fault) if isinstance(fault, Disagreement) else f"it fails: {text_of(fault)}"


def _sizes(network: nn.Module, example: Tensor) -> tuple[bool, int]:
    """Whether other sizes than the example's work, and the smallest side that does (trying halves)."""
    height, width = example.shape[2:]
    if not _takes(network, example, height + height // 4, width):
        return False, min(height, width)
    smallest = min(height, width)
    while smallest // 2 >= SMALLEST_SIDE and _takes(network, example, smallest // 2, smallest // 2):
        smallest //= 2
    return True, smallest


def _takes(network: nn.Module, example: Tensor, height: int, width: int) -> bool:
    """Whether the network runs on images of that size."""
    with contextlib.suppress(Exception), torch.no_grad():
        run(network, nn.functional.interpolate(example, (height, width)))
        return True
    return False
