"""The goal of an attack, an error or a certain class, and the loss that it raises to reach it."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...engine.job import MethodContext
from ...engine.objective import (
    NotApplicable,
    Objective,
    dlr,
    log_prob,
    margin,
    probability,
    probability_margin,
    targeted_dlr,
)
from ...engine.scores import log_probabilities, margins, ranking
from ...models.card import HeadKind

Loss = Literal["cross_entropy", "margin", "dlr", "probability_margin"]
Pick = Literal["runner_up", "least_likely", "random"]
MIN_LOSS = 1e-30  # Below this cross-entropy, products of its gradient with weights may underflow in fp32.
RANDOM_TARGET_INDEX = 1 << 40  # The sample index of a random target; those of noise are lower.


@dataclass(frozen=True, slots=True)
class Goal:
    """The true class, the class that the model is to predict if there is one, and with which confidence.

    A class is predicted where its logit is the largest, and of equal ones the first; under a multilabel head, whose
    classes are independent, where its logit is above 0.
    """

    label: int
    target: int | None = None
    loss: Loss = "cross_entropy"
    confidence: float = 0.0
    head: HeadKind = "softmax"

    def objective(self) -> Objective:
        """The loss that the attack raises."""
        if self.loss == "cross_entropy":
            return -log_prob(self.label) if self.target is None else log_prob(self.target)
        if self.loss == "margin":
            return -margin(self.label) if self.target is None else margin(self.target)
        if self.loss == "probability_margin":
            return self._probability_margin()
        return -dlr(self.label) if self.target is None else -targeted_dlr(self.label, self.target)

    def _probability_margin(self) -> Objective:
        if self.target is None:
            return -probability_margin(self.label)
        gain = probability(self.target)
        return gain - probability(self.label) if self.head == "softmax" else gain

    def margin(self, logits: Tensor) -> Tensor:
        """The distance from the goal, below 0 where it is reached: [n, classes] -> [n]."""
        label = torch.full((len(logits), 1), self.label if self.target is None else self.target, device=logits.device)
        return margins(logits, label, self.head) * (1 if self.target is None else -1)

    def reached(self, logits: Tensor) -> Tensor:
        """Whether the goal is reached: [n, classes] -> [n]."""
        if self.head == "multilabel":
            margin = self.margin(logits)
            predicted = margin <= 0 if self.target is None else margin < 0
        elif self.target is None:
            predicted = logits.argmax(1) != self.label
        else:
            predicted = logits.argmax(1) == self.target
        return predicted if self.target is None else predicted & self._sure(logits, self.target)

    def _sure(self, logits: Tensor, target: int) -> Tensor:
        return log_probabilities(logits, self.head)[:, target].exp() >= self.confidence

    def saturated(self, logits: Tensor) -> Tensor:
        """Where a loss of probabilities has lost its gradient: [n, classes] -> [n].

        Under a softmax head that is where the label's probability rounds to 1. Under the others the gradient of the
        cross-entropy is exact there, and lost where the cross-entropy is below MIN_LOSS.
        """
        log_probability = log_probabilities(logits, self.head)[:, self.label]
        if self.loss == "probability_margin" or (self.loss == "cross_entropy" and self.target is None):
            if self.head == "softmax":
                return log_probability.exp() == 1
            if self.loss == "cross_entropy":
                return log_probability > -MIN_LOSS
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)


@dataclass(frozen=True, slots=True)
class GoalSpec:
    """A goal as the request states it; its open fields follow from the prediction."""

    label: int | None = None
    target: int | None = None
    pick: Pick | None = None
    loss: Loss = "cross_entropy"
    from_scratch: bool = False  # Whether the attack begins from no picture, so that its content does not matter.
    head: HeadKind = "softmax"

    def goal(self, logits: Tensor, run: MethodContext) -> Goal:
        """The goal, given the logits [classes] of the picture. Raises NotApplicable."""
        classes = ranking(logits[None])[0].tolist()
        label = classes[0] if self.label is None else self.label
        present = [c for c in classes if logits[c] > 0] if self.head == "multilabel" else [label]
        target = self._pick([c for c in classes if c not in (label, *present)], run) if self.pick else self.target
        if target in present and not self.from_scratch:
            if self.head == "multilabel":
                raise NotApplicable("the target is present for the model already; name a label that is absent")
            raise NotApplicable("the target is what the model predicts already; name another, or the true label")
        if target is None and self.label is None and label not in present:
            raise NotApplicable(
                "no label is present for the model, so that there is none to lose; name a label, or a target"
            )
        return Goal(label, target, self.loss, head=self.head)

    def _pick(self, others: list[int], run: MethodContext) -> int:
        """The class that `pick` asks for, among the classes that are not predicted (given by falling logit)."""
        if not others:
            raise NotApplicable(
                "every label is present for the model already, so that there is none to pick; name the label"
            )
        if self.pick == "random":
            return int(run.generator(RANDOM_TARGET_INDEX).choice(sorted(others)))
        return others[0] if self.pick == "runner_up" else others[-1]
