"""A network made ready to serve: folded, channels_last, frozen, probed."""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .card import ModelCard, Precision
from .catalogue import ModelSpec
from .fold import fold_batch_norms
from .loading import LoadError, Source, load
from .probe import ROWS, Probe, probe
from .taps import Place, Side

SMALLEST = 8


@dataclass(frozen=True, eq=False)
class Prepared:
    """A served model on its device. Its modules never change after this."""

    network: nn.Module
    card: ModelCard
    places: dict[str, Place]
    mean: Tensor
    std: Tensor

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights and inputs."""
        return self.mean.dtype

    def __call__(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] -> logits [N, classes]."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits

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
    card = _card(spec, source, seen, folded)
    any_size, smallest = _sizes(network, example)
    return Prepared(network, replace(card, any_size=any_size, min_size=smallest), seen.places, mean, std)


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


def _card(spec: ModelSpec, source: Source, seen: Probe, folded: dict[str, str]) -> ModelCard:
    labels = source.labels or tuple(f"class {i}" for i in range(seen.classes))
    if len(labels) != seen.classes:
        raise LoadError(f"model {spec.name}: {len(labels)} labels for {seen.classes} classes")
    notes = list(spec.notes)
    if seen.softmax:
        notes.append("its outputs look like probabilities: gradients of a saturated softmax vanish; serve the logits")
    if seen.relus and seen.other_activations:
        notes.append(f"PARTIALLY_GUIDED: beside ReLUs it has {', '.join(seen.other_activations)}")
    precisions: tuple[Precision, ...] = ("exact",)
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
        precisions=precisions,
        notes=tuple(notes),
    )
