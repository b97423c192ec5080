"""A network made ready to serve, in each of its precisions."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from ..accel.convolutions import HALF
from ..accel.cpu_mode import FastOperations, KernelCache
from ..accel.half_backward import HalfBackward, HalfWeights
from .card import ModelCard, Precision
from .channels import grey
from .contents import weight_of
from .fold import unfolded
from .outputs import PLAIN, Head
from .positions import PositionWeights, summed_over
from .relevance.mode import RelevanceRules
from .rules import Relevance, Rule
from .taps import Place, Side
from .tiles import DenseHead
from .trial import SharedTrial


@dataclass(frozen=True, eq=False)
class Prepared:
    """A served model on its device, in one precision; `at` gives the others. Its modules never change after this."""

    network: nn.Module
    card: ModelCard
    places: dict[str, Place]
    mean: Tensor
    std: Tensor
    head: Head = PLAIN
    precision: Precision = "exact"
    channels_last: bool = True  # Whether images and weights lie in memory with their channels last.
    others: Mapping[Precision, "Prepared"] = field(default_factory=dict)
    halves: HalfWeights | None = None
    kernels: KernelCache | None = None  # Faster convolutions on a CPU.
    refusals: dict[tuple[str, int, int], str] = field(default_factory=dict)  # What `other_sizes` has found.
    dense_trial: SharedTrial[DenseHead] = field(default_factory=SharedTrial)  # It begins once Dense is asked for.

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
        """The network's input [N, C, H, W] for images [N, 3, H, W] in [0, 1]: normalised, and grey where C is 1."""
        if self.card.channels == 1:
            images = grey(images)
        n, channels, height, width = images.shape
        lines = images.permute(0, 2, 3, 1).reshape(n * height, width * channels)  # Long lines suit vector instructions.
        scaled = torch.addcmul(self._shift.repeat(width), lines, self._scale.repeat(width))
        scaled = scaled.view(n, height, width, channels).permute(0, 3, 1, 2)
        scaled = scaled if self.channels_last else scaled.contiguous()
        return scaled.to(HALF) if self.precision == "fast" else scaled

    def __call__(
        self, images: Tensor, rules: Sequence[Rule] = (), regions: Sequence[PositionWeights | None] = ()
    ) -> Tensor:
        """[N, 3, H, W] in [0, 1] -> logits [N, classes].

        `rules`: those of the backward pass, one for each row and ordered as by `rules.place`. Only those of relevance
        are applied here; for those of ReLUs the caller enters `ReLURules` before. `regions`: weights [H, W] of the
        positions whose scores are summed or averaged, one or None for each row.
        """
        x = self.normalised(images)
        with self._mode(), self._relevance(rules, x), summed_over(regions, *images.shape[2:]):
            logits = self.head.logits(self.network, x)
        return logits.to(self.dtype)

    def lay_out_weights(self) -> None:
        """Runs a gradient pass at the model's own size, so that its kernels lay their weights out for that.

        A layout is chosen by a kernel's first input and kept. One that was chosen for smaller images is slower at the
        model's own size: a pass of resnet50 in FAST took 1.5 times as long (AMD EPYC, 2026-11-28).
        """
        if self.kernels is None or self.card.unbatched:
            return
        size = (2, 3, self.card.height, self.card.width)  # A layout for a single image makes outputs of another format.
        images = torch.zeros(size, device=self.device, dtype=self.dtype, requires_grad=True)
        images = images.contiguous(memory_format=torch.channels_last)  # So are the images that the engine passes.
        with torch.enable_grad():
            logits = self(images)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), images, allow_unused=True)

    def _mode(self) -> contextlib.AbstractContextManager[object]:
        """The torch function mode that replaces operations of the network in this precision, if any."""
        if self.halves is not None and torch.is_grad_enabled():
            return HalfBackward(self.halves)
        return contextlib.nullcontext() if self.kernels is None else FastOperations(self.kernels)

    def _relevance(self, rules: Sequence[Rule], x: Tensor) -> contextlib.AbstractContextManager[object]:
        """The mode that replaces operations for rows with relevance, if there are any. x: the normalised images."""
        relevance = [rule for rule in rules if isinstance(rule, Relevance)]
        if not relevance:
            return contextlib.nullcontext()
        mode = RelevanceRules(relevance, len(rules))
        mode.see_input(x, -self.mean / self.std, (1 - self.mean) / self.std)
        return mode

    def place(self, layer: str, side: Side = "output") -> Place:
        """Where to listen for a layer's output or input."""
        place = self.places[self.card.listed(layer)]
        if place.relu and side == "input":
            return place._replace(relu=False)  # The input of a functional ReLU is its module's output.
        return place._replace(side=side)

    def weights(self, layer: str) -> Tensor:
        """The weights of a layer that has some, as its author wrote them: output channels first, see `weight_of`."""
        weight = weight_of(self.network.get_submodule(layer))
        assert weight is not None, "the card says that the layer has weights"
        norm = self.card.folded.get(layer)
        if norm is not None:
            weight = unfolded(weight, self.network.get_submodule(norm))  # type: ignore[arg-type]
        return weight.detach()

    def deepest(self, layers: Collection[str]) -> str:
        """The layer of these that runs last."""
        return max(layers, key=self.card.order)
