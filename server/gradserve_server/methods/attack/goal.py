"""What an attack wants: an error, or a certain class; and the number that it climbs to get there."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...engine.job import Run
from ...engine.objective import Objective, Refused, dlr, log_prob, margin, margins, ranking, targeted_dlr

Loss = Literal["cross_entropy", "margin", "dlr"]
Pick = Literal["runner_up", "least_likely", "random"]
PICKING = 1 << 40  # the sample index of a random target, away from those of noise


@dataclass(frozen=True, slots=True)
class Goal:
    """The true class, the class that the model is to predict if there is one, and how sure it is to be."""

    label: int
    target: int | None = None
    loss: Loss = "cross_entropy"
    confidence: float = 0.0

    def objective(self) -> Objective:
        """The number to climb."""
        if self.loss == "cross_entropy":
            return -log_prob(self.label) if self.target is None else log_prob(self.target)
        if self.loss == "margin":
            return -margin(self.label) if self.target is None else margin(self.target)
        return -dlr(self.label) if self.target is None else -targeted_dlr(self.label, self.target)

    def margin(self, logits: Tensor) -> Tensor:
        """The distance from the goal, below 0 where it is reached: [n, classes] -> [n]."""
        label = torch.full((len(logits), 1), self.label if self.target is None else self.target, device=logits.device)
        return margins(logits, label) * (1 if self.target is None else -1)

    def reached(self, logits: Tensor) -> Tensor:
        """Whether the prediction is what is wanted: [n, classes] -> [n]."""
        if self.target is None:
            return logits.argmax(1) != self.label
        sure = logits.softmax(1)[:, self.target] >= self.confidence
        return (logits.argmax(1) == self.target) & sure


@dataclass(frozen=True, slots=True)
class Aim:
    """A goal as it was asked for: what is left open follows from the prediction."""

    label: int | None = None
    target: int | None = None
    pick: Pick | None = None
    loss: Loss = "cross_entropy"
    from_scratch: bool = False  # whatever the picture shows does not matter

    def goal(self, logits: Tensor, run: Run) -> Goal:
        """The goal, given the logits [classes] of the picture. Raises Refused."""
        classes = ranking(logits[None])[0].tolist()
        label = classes[0] if self.label is None else self.label
        target = self._picked([c for c in classes if c != label], run) if self.pick else self.target
        if target == label and not self.from_scratch:
            raise Refused("the target is what the model predicts already; name another, or the true label")
        return Goal(label, target, self.loss)

    def _picked(self, others: list[int], run: Run) -> int:
        if self.pick == "random":
            return int(run.generator(PICKING).choice(sorted(others)))
        return others[0] if self.pick == "runner_up" else others[-1]
