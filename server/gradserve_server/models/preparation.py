"""Makes a network ready to serve, and checks that it still gives the answers of the network that its author wrote."""

import contextlib
import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ..accel.convolutions import HALF
from ..accel.cpu_mode import KernelCache
from ..accel.half_backward import HalfWeights
from .behaviour import AMPLIFYING, NoClassScores, Unservable, examine, trial_images, varied, watch
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
from .input_sizes import find_sizes, takes_size
from .layouts import ROWS
from .loading import LoadError, Source, load
from .outputs import NoLogits, run
from .positions import pool_positions
from .prepared import Prepared
from .probe import Probe, probe
from .processor import choose
from .state import State, check_unwritten, state_of
from .treatments import TREATMENT_NOTES, TREATMENTS, Treatment

log = logging.getLogger(__name__)


UNREPEATABLE = (
    "even the untouched network gives such different answers for the same images: rounding grows so much in it that "
    "none can be trusted (random weights may be why)"
)


class Disagreement(ValueError):
    """A network that was made ready gives other answers than the untouched one."""


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
        if isinstance(error, NoClassScores | NoLogits) and pool_positions(source.network, source.shape, source.labels):
            return prepare_source(spec, source, device, dtype, fold=fold)
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
        """The network in the first treatment that leaves its answers as they are. Raises LoadError and Unservable."""
        self._examine()
        self.pairs = foldable(self.source.network, self.example[:1]) if fold else {}
        fault: Exception | None = None
        amplifies = self.behaviour.unbatched == AMPLIFYING  # Every treatment rounds in other places.
        for treatment in TREATMENTS[-1:] if amplifies else TREATMENTS if fold else TREATMENTS[2:]:
            try:
                exact = self._treat(treatment)
            except LoadError:
                raise
            except Exception as error:
                fault = error
                log.warning("%s %s: %s", self.spec.name, treatment, error, exc_info=not isinstance(error, Disagreement))
                continue
            if exact is None:
                continue
            if fault is not None:
                note = f"{TREATMENT_NOTES[treatment]} {_describe_fault(fault)}"
                exact = replace(exact, card=replace(exact.card, notes=(*exact.card.notes, note)))
            exact = replace(exact, card=replace(exact.card, sample=self._sample(exact)))
            return self._add_precisions(exact) if fold else replace(exact, kernels=None)
        why = f"; {UNREPEATABLE}" if isinstance(fault, Disagreement) else ""
        raise LoadError(f"model {self.spec.name}: it cannot be served: {fault}{why}")

    def _examine(self) -> None:
        """Finds the untouched network's sizes, its head and how it behaves. Raises Unservable."""
        network, size = self.source.network, (self.source.height, self.source.width)
        self.mean, self.std = (
            torch.tensor(v, device=self.device, dtype=self.dtype).view(-1, 1, 1)
            for v in (self.source.mean, self.source.std)
        )
        self.example = self.normalised(self._images(varied(*size))[:ROWS])
        state = state_of(network)
        self.any_size, self.min_size = find_sizes(network, self.example[:1])
        self.other_size = self._other_size()
        self.spare_image = self._images(varied(*(self.other_size or size))[3:])  # An image that no comparison uses.
        try:
            shown = self.normalised(self._images(trial_images(*(self.other_size or size))))
            with torch.no_grad():
                watch(network, shown[:1])  # This refuses networks of which no pass can be made.
            self.head = find_head(network, shown, self.spec.head)
            self.behaviour = examine(network, shown, self.head)
        except Unservable:
            self._check_unwritten(state)  # Its error says more, as it names what the network writes over.
            raise
        self._check_unwritten(state)
        if not self.behaviour.half:
            self.comparison.check_rounding()

    def _sample(self, model: Prepared) -> tuple[float, ...]:
        """The logits of a picture that is the same in every process."""
        picture = self._images(varied(model.card.height, model.card.width)[:1])
        with torch.no_grad():
            return tuple(model(picture)[0].tolist())

    def _check_unwritten(self, state: Mapping[str, State]) -> None:
        """Raises Unservable where the network has written over its parameters or buffers since then."""
        with torch.no_grad(), contextlib.suppress(Exception):  # The network may be one that cannot be served anyway.
            run(self.source.network, self.example[1:2])  # Caches that depend on the image's size are as before again.
        check_unwritten(self.source.network, state)

    def normalised(self, images: Tensor) -> Tensor:
        """The network's input for images [N, 3, H, W] in [0, 1]; the number format stays."""
        images = grey(images) if self.source.channels == 1 else images
        return (images - self.mean.to(images)) / self.std.to(images)

    @cached_property
    def comparison(self) -> Comparison:
        """The comparison with the untouched network."""
        return self._comparison(seed=0)

    @cached_property
    def second_comparison(self) -> Comparison:
        """The same over other images, which decides where the first comparison fails."""
        return self._comparison(seed=1)

    def _comparison(self, seed: int) -> Comparison:
        network, own = self.source.network, (self.source.height, self.source.width)
        small = sum(p.numel() for p in network.parameters()) <= MAX_PARAMETERS_IN_DOUBLE
        images = [self._images(each) for each in batches(own, self.other_size, seed)]
        return Comparison(network, self.normalised, images, try_double=small, head=self.head)

    def _images(self, images: Tensor) -> Tensor:
        return images.to(self.device, self.dtype)

    def _other_size(self) -> tuple[int, int] | None:
        """A smaller size of another aspect ratio, if the network takes it."""
        other = (-(-self.source.height * 3 // 8), -(-self.source.width // 2))
        return other if self.any_size and takes_size(self.source.network, self.example, *other) else None

    def _treat(self, treatment: Treatment) -> Prepared | None:
        """The network in fp32; None where the treatment changes nothing. Raises Disagreement, or what torch raises."""
        if treatment.fold and not self.pairs:
            return None
        if treatment.fold:
            self._check_in_double()  # This comes before the copy, so that both are not in memory at once.
        network = self._copy() if any(treatment) else self.source.network
        if treatment.fold:
            fold_batch_norms(network, self.pairs.items())
        example = self.example
        if treatment.channels_last:
            network = network.to(memory_format=torch.channels_last)
            example = example.contiguous(memory_format=torch.channels_last)
        tokens = self.spec.tokens.numbers if self.spec.tokens else None
        facts = probe(network, example, tokens, self.behaviour.apart, self.head)
        card = self._card(facts, self.pairs if treatment.fold else {})
        exact = Prepared(network, card, facts.places, self.mean, self.std, self.head)
        exact = replace(exact, channels_last=treatment.channels_last)
        if self.device.type == "cpu" and any(treatment):
            exact = replace(exact, kernels=KernelCache())
        self._check(exact)
        return exact

    def _copy(self) -> nn.Module:
        """A copy of the untouched network, after a pass without gradients: tensors with a history have no copy."""
        self._show_spare_image()
        return deepcopy(self.source.network)

    def _show_spare_image(self) -> None:
        """Runs the untouched network on an image that no comparison uses.

        A hook may keep features for the forward pass. In a copy of the network such a hook still writes to the
        original, so that the copy reads the features of the original's last image; the comparison then shows that.
        """
        with torch.no_grad():
            run(self.source.network, self.normalised(self.spare_image))

    def _check_in_double(self) -> None:
        """Raises Disagreement where folding changes the answers in float64, in which rounding explains nothing."""
        if self.comparison.in_double:
            network = cast(self._copy(), torch.float64)
            fold_batch_norms(network, self.pairs.items())
            errors = self.comparison.errors("double", lambda x: self.head.run(network, self.normalised(x)))
            bounds = self.comparison.bounds("double")
            if not errors.within(bounds):
                raise Disagreement(f"in float64 {errors.against(bounds)}")

    def _check(self, model: Prepared) -> None:
        """Raises Disagreement if two sets of images show it: ReLUs that rounding flips differ from set to set."""
        model.lay_out_weights()
        if not self._agrees(model, self.comparison):
            self._agrees(model, self.second_comparison, strict=True)

    def _agrees(self, model: Prepared, comparison: Comparison, *, strict: bool = False) -> bool:
        """Whether the answers are within the bounds; if strict, raises Disagreement instead of returning False."""
        kind: Format = "double" if self.dtype == torch.float64 else model.precision
        self._warm_up(model)
        if kind == "fast":
            comparison.add_half(self._copy(), self.normalised, HALF)
        errors, bounds = comparison.errors(kind, model), comparison.bounds(kind)
        if model.network is self.source.network:
            bounds = bounds._replace(gradient=torch.inf)  # An untouched network has no other gradient than torch's.
        log.debug("%s in %s: %s", self.spec.name, kind, errors.against(bounds))
        if strict and not errors.within(bounds):
            raise Disagreement(errors.against(bounds))
        return errors.within(bounds)

    def _add_precisions(self, exact: Prepared) -> Prepared:
        """Adds the precisions that the spec names or the device computes fast, but for those that fail."""
        choice = choose(self.spec, self.device)
        others: dict[Precision, Prepared] = {}
        absent: dict[Precision, str] = {}
        for precision in choice.loaded:
            if precision == "exact":
                continue
            try:
                others[precision] = self._balanced(exact) if precision == "balanced" else self._fast(exact)
            except Exception as error:
                absent[precision] = f"in {precision.upper()} {_describe_fault(error)}"
        for warning in choice.warnings:
            log.warning("%s: %s", self.spec.name, warning)
        card = choice.applied_to(exact.card, absent)
        others = {precision: replace(other, card=card) for precision, other in others.items()}
        return replace(exact, card=card, others=others)

    def _balanced(self, exact: Prepared) -> Prepared:
        """The model in BALANCED, which shares the network of EXACT."""
        model = replace(exact, precision="balanced", halves=HalfWeights(exact.kernels))
        self._check(model)
        return model

    def _fast(self, exact: Prepared) -> Prepared:
        """The model in FAST, with a copy of the network in half precision."""
        self._warm_up(exact)
        network = cast(deepcopy(exact.network), HALF)
        kernels = KernelCache() if exact.kernels else None
        model = replace(exact, precision="fast", network=network, kernels=kernels)
        if self.dtype == torch.float32:
            self._check(model)
        return model

    def _warm_up(self, model: Prepared) -> None:
        """Runs the model on an image that no comparison uses, so that the comparison shows what it keeps of that."""
        with torch.no_grad():
            model(self.spare_image)

    def _card(self, facts: Probe, folded: dict[str, str]) -> ModelCard:
        sizes = (self.any_size, self.min_size)
        return describe(self.spec, self.source, facts, folded, self.behaviour, self.head, sizes)


def _describe_fault(fault: Exception) -> str:
    """What went wrong in a treatment or a precision, in words."""
    return str(fault) if isinstance(fault, Disagreement) else f"it fails: {text_of(fault)}"
