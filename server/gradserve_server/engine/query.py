"""What a method asks of the engine (Query), and what it gets (Answer)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..models.positions import PositionWeights
from ..models.rules import Rule
from ..models.taps import Side
from .costs import rule_cost
from .objective import Objective

if TYPE_CHECKING:  # A front-end reads this module, and has no torch to load that one with.
    from ..models.prepared import Prepared

Reduction = Callable[[Tensor, Tensor], Tensor]  # Takes an activation and its gradient.
Wrt = Literal["image", "taps", "nothing"]  # What to differentiate by; "nothing" is a forward pass alone.


@dataclass(frozen=True, slots=True)
class Tap:
    """A layer whose activation and gradient are wanted, as maps.

    `reduce(activation, gradient)` runs in the engine, so that big activations need not leave it. The side "weight" is
    for gradients by the layer's weights: there `reduce` gets the layer's input and the gradient by its output, both in
    the layer's own layout.
    """

    layer: str
    side: Side | Literal["weight"] = "output"
    reduce: Reduction | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides that are read; the last is the one to differentiate by."""
        return ("input", "output") if self.side == "weight" else (self.side,)


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """Rows to compute: one forward and at most one backward for each image."""

    images: Tensor  # [n, 3, H, W] in [0, 1]
    objective: Objective | None = None  # The score of each row; None asks for logits and taps alone.
    wrt: Wrt = "nothing"
    taps: tuple[Tap, ...] = ()
    rule: Rule = "plain"
    model: str | None = None  # Name of another model than the job's.
    unshared: bool = False  # Whether its passes have rows of no other query.
    region: PositionWeights | None = None  # For networks with scores of positions; None is the mean of all.
    permuted: str = ""  # A layer whose parameters have their values permuted in these rows; "" for none.

    @property
    def reads_logits(self) -> bool:
        """Whether the forward pass must run to its end."""
        return self.objective.reads_logits if self.objective else not self.taps


@dataclass(frozen=True, slots=True, eq=False)
class ModelRead:
    """What a method reads of its model itself, in EXACT, between passes of others; it is sent what `read` returns."""

    read: "Callable[[Prepared], Any]"


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The results of a query's rows, in order. Maps are [n, C, h, w], whatever the layer's own layout."""

    logits: Tensor | None  # [n, classes]; None where the forward stopped before them
    value: Tensor | None  # [n], the objective
    image_grad: Tensor | None  # [n, 3, H, W]
    acts: tuple[Tensor, ...]  # One per tap: the activation, or what the tap's reduce made of it.
    act_grads: tuple[Tensor | None, ...]  # One per tap; None where reduced or not asked for.
    finite: bool = True  # Whether all its numbers are finite.
    terms: Tensor | None = None  # [n, terms], the objective's weighted summands
    relevance: Tensor | None = None  # [n, 3, H, W], of the pixels, for rules of relevance


class Part(NamedTuple):
    """Some rows of a query, as they go into a batch."""

    query: Query
    rows: range

    @property
    def cost(self) -> int:
        """The cost of these rows, in rows with the plain gradient."""
        return len(self.rows) * rule_cost(self.query.rule)


def join(answers: list[Answer]) -> Answer:
    """One answer from those of a query's parts, in order."""
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
        cat([a.relevance for a in answers]),
    )
