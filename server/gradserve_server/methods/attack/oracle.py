"""What an attack may ask of the model. It counts, keeps the best picture it was shown, and says when to stop."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...engine.job import MethodContext, Steps
from ...engine.objective import Objective
from ...engine.query import Query
from .ball import Ball, pixels
from .blindness import obstacles
from .goal import Goal
from .input_transform import InputTransform

# `survey` draws its random changes at steps from here on; the attack's own steps are lower.
SURVEY_STEP_OFFSET = 1 << 20


class Evaluation(NamedTuple):
    """What the model says of some pictures, each averaged over its views."""

    logits: Tensor  # [n, classes]
    value: Tensor  # [n], the loss that the attack raises.
    margin: Tensor  # [n], distance from the goal
    reached: Tensor  # [n], share of the views that reach it
    grad: Tensor  # [n, 3, H, W], the loss's gradient; empty after `scores`.


class TrajectoryPoint(NamedTuple):
    """One step of a trajectory: of its pictures, the one that came closest to the goal."""

    step: int
    logits: np.ndarray
    margin: float
    value: float


@dataclass(eq=False)
class Oracle:
    """The model behind an input transform, as an attack asks it.

    `model` names another model than the job's, `stop` asks for the first success, and `toward` is the goal whose loss
    is raised, where that is another than the goal by which pictures are judged.
    """

    x: Tensor  # [1, 3, H, W], the original
    goal: Goal
    ball: Ball
    run: MethodContext
    std: Tensor  # [3, 1, 1] or [1, 1, 1], of the model's normalisation
    transform: InputTransform = field(default_factory=InputTransform)
    stop: bool = False
    model: str | None = None
    toward: Goal | None = None
    offset: int = 0  # What is added to the numbers of steps, for a part of an attack.
    best: Tensor | None = None  # [1, 3, H, W]; None before the first evaluation.
    rank: tuple[bool, float] = (True, float("inf"))  # Whether the best picture misses the goal, and its margin.
    done: bool = False  # With `stop`: whether a picture succeeded in 8 bits too, which ends the attack.
    first_success: int | None = None
    queries: int = 0
    gradients: int = 0
    trajectory: dict[int, TrajectoryPoint] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)  # A method's further results, by name.
    last: Tensor | None = None  # [n, 3, H, W], the pictures of the last evaluation.
    # Warnings that say why a gradient was missing: an ordered set of texts.
    obstacles: dict[str, None] = field(default_factory=dict)
    pictures: int = 0  # The number of pictures that were evaluated.
    values: tuple[float, float] = (float("inf"), float("-inf"))  # The least and the largest loss so far.
    unobstructed: bool = False  # Whether a part of the attack had gradients to follow in all of its steps.

    def climb(self, images: Tensor, step: int, objective: Objective | None = None, keep: bool = True) -> Steps:
        """The model's scores of images [n, 3, H, W] and the loss's gradient by them. Returns Evaluation.

        An `objective` takes the place of the goal's loss. Without `keep` the images cannot become the answer.
        """
        seen, pull = self.transform.apply(images, self.run, step + self.offset)
        answer = yield Query(seen, objective or self._climbed.objective(), "image", model=self.model)
        self.gradients += len(seen)
        grad = self.ball.masked(pull(answer.image_grad))
        rows = answer.image_grad
        if self.ball.mask is not None:  # A gradient that is 0 inside the mask counts as 0.
            rows = rows * grad.flatten(1).any(1).repeat_interleave(self.transform.views).view(-1, 1, 1, 1)
        borrowed = self.model is not None
        self.obstacles |= obstacles(self.goal, self._climbed, answer.logits, rows, borrowed)
        return (yield from self._record(images, answer, grad, step, keep))

    def gradients_of(self, image: Tensor, objectives: Sequence[Objective], step: int) -> Steps:
        """Values [n] and gradients [n, 3, H, W] of several objectives at one image, without keeping it."""
        seen, _ = self.transform.apply(image, self.run, step + self.offset)
        answers = yield [Query(seen, each, "image", model=self.model) for each in objectives]
        self.queries += len(seen) * len(objectives)
        self.gradients += len(seen) * len(objectives)
        # Each gradient is pulled back by a transform of its own, whose graph serves only once.
        pulls = [self.transform.apply(image, self.run, step + self.offset)[1] for _ in objectives]
        grads = [self.ball.masked(pull(answer.image_grad)) for pull, answer in zip(pulls, answers, strict=True)]
        return torch.cat([self._per_image(answer.value) for answer in answers]), torch.cat(grads)

    def scores(self, images: Tensor, step: int, keep: bool = True) -> Steps:
        """The model's scores alone. Returns Evaluation. Without `keep` the images cannot become the answer."""
        with torch.no_grad():
            seen, _ = self.transform.apply(images, self.run, step + self.offset)
        answer = yield Query(seen, self._climbed.objective(), model=self.model)
        return (yield from self._record(images, answer, images[:0], step, keep))

    def reaches(self, images: Tensor, step: int) -> Steps:
        """Whether each image reaches the goal, without keeping it. Returns a tensor of booleans [n]."""
        with torch.no_grad():
            seen, _ = self.transform.apply(images, self.run, step + self.offset)
        answer = yield Query(seen, model=self.model)
        self.queries += len(seen)
        return self._per_image(self.goal.reached(answer.logits).to(images.dtype)) > 0.5

    def survey(self, draws: int) -> Steps:
        """Notes how often the best picture reaches the goal under fresh random changes."""
        best, _ = self.shown
        steps = range(SURVEY_STEP_OFFSET, SURVEY_STEP_OFFSET + -(-draws // self.transform.views))
        rows = [self.transform.apply(best, self.run, step)[0] for step in steps]
        answer = yield Query(torch.cat(rows), model=self.model)
        self.queries += len(answer.logits)
        self.notes["success_rate"] = float(self.goal.reached(answer.logits).double().mean())

    def sibling(self, model: str | None = None) -> "Oracle":
        """A new oracle of the same attack, on this or another model, with a best picture of its own."""
        return Oracle(
            self.x, self.goal, self.ball, self.run, self.std, self.transform, model=model, obstacles=self.obstacles
        )

    def part(self, goal: Goal | None = None, toward: Goal | None = None) -> "Oracle":
        """A new oracle for a part of this attack, which `absorb` takes in afterwards; its steps follow the last one.

        `goal` is the same goal with another loss.
        """
        offset = max(self.trajectory, default=-1) + 1
        facts = self.ball, self.run, self.std, self.transform, self.stop
        return Oracle(self.x, goal or self.goal, *facts, toward=toward, offset=offset)

    def absorb(self, part: "Oracle") -> None:
        """Counts a part's passes as this oracle's, and takes its picture if that is the better one.

        Obstacles are this attack's only if every part that asked for gradients had some.
        """
        self.add_passes(part)
        self.trajectory |= part.trajectory
        if self.first_success is None:
            self.first_success = part.first_success
        if part.done or (not self.done and part.rank < self.rank):
            self.best, self.rank = part.best, part.rank
        self.done |= part.done
        self.last = part.last if part.last is not None else self.last
        self.unobstructed |= part.gradients > 0 and not part.obstacles
        self.obstacles = {} if self.unobstructed else self.obstacles | part.obstacles

    @property
    def _climbed(self) -> Goal:
        """The goal whose loss is raised."""
        return self.toward or self.goal

    @property
    def flat(self) -> bool:
        """Whether the loss was the same for every picture, so that no search could tell better from worse."""
        return self.pictures > 1 and self.values[0] == self.values[1]

    @property
    def shown(self) -> tuple[Tensor, Tensor]:
        """The best picture and the pictures shown last."""
        assert self.best is not None, "the oracle was asked before"
        assert self.last is not None, "the oracle was asked before"
        return self.best, self.last

    def add_passes(self, other: "Oracle") -> None:
        """Counts the passes of another oracle as this one's."""
        self.queries += other.queries
        self.gradients += other.gradients

    def _per_image(self, rows: Tensor) -> Tensor:
        """Rows of views, averaged for each image."""
        return rows.view(-1, self.transform.views, *rows.shape[1:]).mean(1)

    def _record(self, images: Tensor, answer: Any, grad: Tensor, step: int, keep: bool) -> Steps:
        self.queries += len(answer.logits)
        margin = self._per_image(self.goal.margin(answer.logits))
        reached = self._per_image(self.goal.reached(answer.logits).to(images.dtype))
        evaluation = Evaluation(self._per_image(answer.logits), self._per_image(answer.value), margin, reached, grad)
        if not keep:
            return evaluation
        ranks = [(share <= 0.5, least) for share, least in zip(reached.tolist(), margin.tolist(), strict=True)]
        nearest = min(range(len(ranks)), key=ranks.__getitem__)
        success = not ranks[nearest][0]
        self.last = images.detach()
        self.pictures += len(images)
        self.values = (
            min(self.values[0], float(evaluation.value.min())),
            max(self.values[1], float(evaluation.value.max())),
        )
        self._remember(step, evaluation, nearest)
        if success and self.first_success is None:
            self.first_success = step + self.offset
        if ranks[nearest] < self.rank:
            self.best, self.rank = images[nearest : nearest + 1].detach().clone(), ranks[nearest]
        if success and self.stop and not self.done:
            encoded = self.ball.encoded(images[nearest : nearest + 1], self.x)
            self.done = bool((yield from self.reaches(pixels(encoded, self.x), step))[0])
            if self.done:
                self.best = images[nearest : nearest + 1].detach().clone()
        return evaluation

    def _remember(self, step: int, evaluation: Evaluation, row: int) -> None:
        step += self.offset
        before = self.trajectory.get(step)
        if before is None or float(evaluation.margin[row]) < before.margin:
            logits = evaluation.logits[row].float().cpu().numpy()
            self.trajectory[step] = TrajectoryPoint(
                step, logits, float(evaluation.margin[row]), float(evaluation.value[row])
            )
