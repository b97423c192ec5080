"""What a method asks (Query) and is told (Answer)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..models.relu import Rule
from ..models.taps import Side
from .objective import Objective

Reduction = Callable[[Tensor, Tensor], Tensor]


Wrt = Literal["image", "taps", "nothing"]  # what to differentiate by; "nothing" is a forward pass alone


@dataclass(frozen=True, slots=True)
class Tap:
    """A layer to listen to. `reduce(activation, gradient)` runs in the engine, so that big activations stay there.

    "weight" is what a gradient by the layer's weights is made of: `reduce(input, gradient by the output)`, both in the
    layer's own layout.
    """

    layer: str
    side: Side | Literal["weight"] = "output"
    reduce: Reduction | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        """Where to listen; the last is what to differentiate by."""
        return ("input", "output") if self.side == "weight" else (self.side,)


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """Rows to compute: one forward and at most one backward for each image."""

    images: Tensor  # [n, 3, H, W] in [0, 1]
    objective: Objective | None = None  # what to score each row by; None: only logits and taps
    wrt: Wrt = "nothing"
    taps: tuple[Tap, ...] = ()
    relu: Rule = "plain"
    model: str | None = None  # another model than the job's
    unshared: bool = False  # shares its passes with no other query

    @property
    def reads_logits(self) -> bool:
        """Whether the forward must reach the end."""
        return self.objective.reads_logits if self.objective else not self.taps


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a query's rows gave, in order. Maps are [n, C, h, w] whatever the layer's own layout."""

    logits: Tensor | None  # [n, classes]; None where the forward stopped before them
    value: Tensor | None  # [n], the objective
    image_grad: Tensor | None  # [n, 3, H, W]
    acts: tuple[Tensor, ...]  # one per tap: the activation, or what the tap's reduce made of it
    act_grads: tuple[Tensor | None, ...]  # one per tap; None where reduced or not asked for
    finite: bool = True  # whether every number of it is
    terms: Tensor | None = None  # [n, terms], the objective's weighted summands


class Part(NamedTuple):
    """Some rows of a query, as they go into a batch."""

    query: Query
    rows: range


def joined(answers: list[Answer]) -> Answer:
    """The answers of a query's parts, one after another."""
    if len(answers) == 1:
        return answers[0]

    def cat(tensors: list[Tensor | None]) -> Tensor | None:
        present = [t for t in tensors if t is not None]
        return torch.cat(present) if present else None

    taps = range(len(answers[0].acts))
    return Answer(
        cat([a.logits for a in answers]) if all(a.logits is not None for a in answers) else None,
        cat([a.value for a in answers]),
        cat([a.image_grad for a in answers]),
        tuple(torch.cat([a.acts[i] for a in answers]) for i in taps),
        tuple(cat([a.act_grads[i] for a in answers]) for i in taps),
        all(a.finite for a in answers),
        cat([a.terms for a in answers]),
    )
