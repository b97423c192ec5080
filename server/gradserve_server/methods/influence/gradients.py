"""Gradients of single examples for building an index: one forward, and a backward for each class."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.card import HeadKind
from ...models.taps import Taps
from .layers import IndexedLayer

if TYPE_CHECKING:  # The front-end imports this module, and models take torch.
    from ...models.prepared import Prepared

MAX_EXACT_CLASSES = 20  # The expectation over no more classes than this is exact.
# For more classes, the expectation takes so many of the most probable ones, and so many draws from the others.
TOP_CLASSES, SAMPLED_CLASSES = 8, 2


class Pass:
    """A forward of N images that can be differentiated by the outputs of some layers, again and again."""

    def __init__(self, model: "Prepared", images: Tensor, layers: Sequence[IndexedLayer]) -> None:
        names = [layer.name for layer in layers]
        inputs, outputs = ([model.place(name, side) for name in names] for side in ("input", "output"))
        taps, self._head = Taps([*inputs, *outputs], leaf=True), model.card.head
        with torch.enable_grad(), taps.listening(model.network):
            self.logits = model(images)
        self.inputs = [taps.kept[place].detach() for place in inputs]
        self._outputs = [taps.kept[place] for place in outputs]

    @property
    def scores(self) -> Tensor:
        """Scores [N, C], whose softmax are the probabilities."""
        return softmax_scores(self.logits, self._head)

    def gradients(self, values: Tensor) -> list[Tensor]:
        """The gradients of the sum of values [N] by each layer's output; row i belongs to example i."""
        return list(torch.autograd.grad(values.sum(), self._outputs, retain_graph=True))

    def reached(self) -> list[bool]:
        """For each layer, whether the logits can be differentiated by its output."""
        inputs = [out for out in self._outputs if out.requires_grad]
        if not inputs or not self.logits.requires_grad:
            return [False] * len(self._outputs)
        grads = iter(torch.autograd.grad(self.logits.sum(), inputs, allow_unused=True, retain_graph=True))
        return [out.requires_grad and next(grads) is not None for out in self._outputs]

    def class_expectation(self, generator: torch.Generator) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Weights [N] and gradients of log p_c, class by class: their weighted outer products sum to the softmax GGN.

        diag(p) - p p^T is the expectation over classes c ~ p of the outer product of grad log p_c by the logits.
        """
        log_p = self.scores.log_softmax(1)
        for chosen, weight in expectation_classes(log_p.detach().exp(), generator):
            yield weight, self.gradients(log_p.gather(1, chosen[:, None]).squeeze(1))


def expectation_classes(p: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Classes [N] and their weights [N] whose sum is an expectation over p [N, C]: exact up to MAX_EXACT_CLASSES
    classes.

    For more: the TOP_CLASSES most probable ones with their probability, and the mass of the others on SAMPLED_CLASSES
    draws among them.
    """
    count = p.shape[1]
    if count <= MAX_EXACT_CLASSES:
        for c in range(count):
            yield torch.full_like(p[:, 0], c, dtype=torch.long), p[:, c]
        return
    top = p.topk(TOP_CLASSES, 1)
    for j in range(TOP_CLASSES):
        yield top.indices[:, j], top.values[:, j]
    others = p.scatter(1, top.indices, 0.0)
    mass = others.sum(1)
    draws = torch.multinomial((others + 1e-30).cpu(), SAMPLED_CLASSES, replacement=True, generator=generator).to(
        p.device
    )
    for j in range(SAMPLED_CLASSES):
        yield draws[:, j], mass / SAMPLED_CLASSES


def softmax_scores(logits: Tensor, head: HeadKind) -> Tensor:
    """Scores whose softmax are the model's probabilities; there are none for independent labels.

    The two classes of a binary head, of logits [-z, z], have the probabilities sigmoid(-z) and sigmoid(z). These are
    the softmax of [-z / 2, z / 2], so that cross-entropy, curvature and margin are those of two classes.
    """
    assert head != "multilabel", "an index has one label for each example"
    return logits / 2 if head == "binary" else logits


def losses(scores: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of each example as the model was trained: [N, C], [N] -> [N]."""
    return F.cross_entropy(scores, labels, reduction="none", label_smoothing=label_smoothing)
