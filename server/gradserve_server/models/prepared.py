"""A network made ready to serve: folded, channels_last, frozen, probed."""

import contextlib
import logging
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from .card import ModelCard, Precision
from .catalogue import ModelSpec
from .convolutions import HALF
from .fold import fold_batch_norms
from .kernels import FastOperations, Kernels
from .loading import LoadError, Source, load
from .precision import HalfBackward, Halves
from .probe import ROWS, Probe, probe
from .processor import Choice, choose
from .straight import Line, Straight
from .taps import Place, Side

log = logging.getLogger(__name__)

SMALLEST = 8


@dataclass(frozen=True, eq=False)
class Prepared:
    """A served model on its device, in one precision; `at` gives the others. Its modules never change after this."""

    network: nn.Module
    card: ModelCard
    places: dict[str, Place]
    mean: Tensor
    std: Tensor
    precision: Precision = "exact"
    others: Mapping[Precision, "Prepared"] = field(default_factory=dict)
    halves: Halves | None = None
    kernels: Kernels | None = None  # on a CPU
    straight: Straight | None = None  # on a CPU

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of images, gradients and answers, whatever the precision inside."""
        return self.mean.dtype

    @cached_property
    def _scale(self) -> Tensor:
        return (1 / self.std).flatten()

    @cached_property
    def _shift(self) -> Tensor:
        return (-self.mean / self.std).flatten()

    def at(self, precision: Precision) -> "Prepared":
        """The same model in another precision. Raises KeyError for one that is not loaded."""
        return self if precision == self.precision else self.others[precision]

    def normalised(self, images: Tensor) -> Tensor:
        """What the network takes for images [N, 3, H, W] in [0, 1]."""
        n, channels, height, width = images.shape
        lines = images.permute(0, 2, 3, 1).reshape(n * height, width * channels)  # long ones, for vector instructions
        scaled = torch.addcmul(self._shift.repeat(width), lines, self._scale.repeat(width))
        scaled = scaled.view(n, height, width, channels).permute(0, 3, 1, 2)
        return scaled.to(HALF) if self.precision == "fast" else scaled

    def __call__(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] -> logits [N, classes]."""
        with self._mode():
            logits: Tensor = self.network(self.normalised(images))
        return logits.to(self.dtype)

    def unwatched(self, images: Tensor) -> Tensor:
        """The same where nobody listens to layers or changes ReLUs: faster, once it is straightened."""
        line = self.straight.get(self.network, images) if self.straight else None
        return line(images) if line else self(images)

    def straighten(self, rows: int) -> None:
        """Makes `unwatched` faster for images of the model's own size, at most so many; takes some passes."""
        if self.straight is not None:
            size = (self.card.height, self.card.width)
            name = f"{self.card.name} in {self.precision}"
            self.straight.make(name, lambda: Line(self, len(self.card.classes), size, self.dtype, rows))

    def _mode(self) -> contextlib.AbstractContextManager[object]:
        """What replaces operations of the network in this precision."""
        if self.halves is not None and torch.is_grad_enabled():
            return HalfBackward(self.halves)
        return contextlib.nullcontext() if self.kernels is None else FastOperations(self.kernels)

    def place(self, layer: str, side: Side = "output") -> Place:
        """Where to listen for a layer's output or input."""
        return self.places[layer]._replace(side=side)

    def deepest(self, layers: Collection[str]) -> str:
        """The layer of these that runs last."""
        return max(layers, key=self.card.order)


def prepare(
    spec: ModelSpec, device: torch.device, dtype: torch.dtype = torch.float32, *, fold: bool = True
) -> Prepared:
    """Loads, folds unless told not to, moves and probes. Raises LoadError."""
    source = load(spec)
    return prepare_source(spec, source, device, dtype, fold=fold)


def prepare_source(
    spec: ModelSpec, source: Source, device: torch.device, dtype: torch.dtype, *, fold: bool = True
) -> Prepared:
    """The same for a network that is already loaded, which is changed in place."""
    network = source.network.to(device=device, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(ROWS, 3, source.height, source.width, generator=generator).to(device, dtype)
    mean, std = (torch.tensor(v, device=device, dtype=dtype).view(3, 1, 1) for v in (source.mean, source.std))
    example = ((example - mean) / std).contiguous(memory_format=torch.channels_last)
    try:
        folded = fold_batch_norms(network, example) if fold else {}
        network = network.to(memory_format=torch.channels_last)
        seen = probe(network, example)
    except Exception as error:
        raise LoadError(f"model {spec.name}: a first pass at {source.height}x{source.width} failed: {error}") from error
    any_size, smallest = _sizes(network, example)
    choice = choose(spec, device)
    for warning in choice.warnings:
        log.warning("model %s: %s", spec.name, warning)
    card = replace(_card(spec, source, seen, folded, choice), any_size=any_size, min_size=smallest)
    exact = Prepared(network, card, seen.places, mean, std)
    if not fold:
        return exact
    if device.type == "cpu":
        exact = replace(exact, kernels=Kernels(), straight=Straight(network))
    return replace(exact, others=_others(exact))


def _others(exact: Prepared) -> dict[Precision, Prepared]:
    """The other precisions that the card names: BALANCED shares the network, FAST has a copy of it."""
    made: dict[Precision, Prepared] = {}
    on_cpu = exact.device.type == "cpu"
    if "balanced" in exact.card.precisions:
        straight = Straight(exact.network) if on_cpu else None
        made["balanced"] = replace(exact, precision="balanced", halves=Halves(exact.kernels), straight=straight)
    if "fast" in exact.card.precisions:
        network = deepcopy(exact.network).to(HALF)
        kernels, straight = (Kernels(), Straight(network)) if on_cpu else (None, None)
        made["fast"] = replace(exact, precision="fast", network=network, kernels=kernels, straight=straight)
    return made


def _sizes(network: nn.Module, example: Tensor) -> tuple[bool, int]:
    """Whether other sizes than the example's work, and the smallest side that does (trying halves)."""

    def works(height: int, width: int) -> bool:
        with contextlib.suppress(Exception), torch.no_grad():
            network(torch.nn.functional.interpolate(example, (height, width)))
            return True
        return False

    height, width = example.shape[2:]
    if not works(height + height // 4, width):
        return False, min(height, width)
    smallest = min(height, width)
    while smallest // 2 >= SMALLEST and works(smallest // 2, smallest // 2):
        smallest //= 2
    return True, smallest


def _card(spec: ModelSpec, source: Source, seen: Probe, folded: dict[str, str], choice: Choice) -> ModelCard:
    labels = source.labels or tuple(f"class {i}" for i in range(seen.classes))
    if len(labels) != seen.classes:
        raise LoadError(f"model {spec.name}: {len(labels)} labels for {seen.classes} classes")
    notes = [*spec.notes, *choice.warnings]
    if seen.softmax:
        notes.append("its outputs look like probabilities: gradients of a saturated softmax vanish; serve the logits")
    if seen.relus and seen.other_activations:
        notes.append(f"PARTIALLY_GUIDED: beside ReLUs it has {', '.join(seen.other_activations)}")
    return ModelCard(
        name=spec.name,
        builder="embedded" if "models.embedded" in spec.source else spec.source,
        digest=source.digest,
        classes=labels,
        height=source.height,
        width=source.width,
        resize=source.resize,
        interpolation="bicubic" if source.interpolation == "bicubic" else "bilinear",
        mean=source.mean,
        std=source.std,
        any_size=False,
        min_size=0,
        default_eps=spec.default_eps,
        layers=tuple(layer for layer in seen.layers if layer.name not in folded),
        folded=folded,
        grad_cam_layer=seen.grad_cam_layer,
        relus=seen.relus,
        other_activations=seen.other_activations,
        rules_refused=seen.rules_refused,
        softmax=seen.softmax,
        gflop=seen.gflop,
        precisions=choice.loaded,
        absent=choice.absent,
        auto=spec.auto,
        rows=spec.rows,
        notes=tuple(notes),
    )
