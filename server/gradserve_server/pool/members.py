"""The workers of a pool and the tasks that they are given, as the front-end keeps them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..models.card import ModelCard
from .handle import Handle
from .wire import Outcome, Preview, Ready, Task, Tick, WorkerSettings

SMOOTHING = 0.2  # weight of the newest statistics in a worker's speed
MIN_GFLOP_PER_SECOND = 1e-9  # GFLOP per second, so that nothing is divided by zero
DEATH_CAUSES = "(out of memory? a crash in its builder?)"


@dataclass(eq=False)
class Pending:
    """A task that is not answered yet."""

    task: Task
    told: asyncio.Queue[Outcome | Preview] = field(default_factory=asyncio.Queue)
    worker: "Member | None" = None
    attempts: int = 0


@dataclass(eq=False)
class Member:
    """A worker as the pool sees it."""

    settings: WorkerSettings
    handle: Handle
    ready: bool = False
    failures: int = 0
    memory: int = 0
    unavailable: Mapping[str, str] = field(default_factory=dict)  # models that it could not load, with the reasons
    loading: str = ""  # the model that it is at
    died: dict[str, str] = field(default_factory=dict)  # models that killed it as it began, with the reasons
    cards: Mapping[str, ModelCard] = field(default_factory=dict)  # of its models
    speeds: dict[str, float] = field(default_factory=dict)  # GFLOP per second, by model: small ones have few for each
    pending: dict[str, Pending] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """GFLOP outstanding."""
        return sum(p.task.cost for p in self.pending.values())

    def wait(self, task: Task) -> float:
        """Seconds of others' work before this task's end, as rows are dealt: from each job no more than its own."""
        own = self._seconds(task)
        return sum(min(self._seconds(p.task), own) for p in self.pending.values())

    def _seconds(self, task: Task) -> float:
        return task.cost / self.speeds[task.model]

    def begin(self, ready: Ready) -> None:
        """Its process can be given work."""
        self.ready, self.failures, self.loading = True, 0, ""
        self.unavailable = {**ready.unavailable, **self.died}
        self.cards = {card.name: card for card in ready.cards}
        self.speeds = {model: max(speed, MIN_GFLOP_PER_SECOND) for model, speed in ready.speeds.items()}

    def leave_out(self) -> str:
        """Goes on without the model that it died at; why that one is not served."""
        name, self.loading = self.loading, ""
        self.settings = replace(self.settings, models=tuple(m for m in self.settings.models if m.name != name))
        self.died[name] = (
            f"the worker died while loading it {DEATH_CAUSES}; leave it out, or try it alone: --model {name}"
        )
        return self.died[name]

    def learn(self, tick: Tick) -> None:
        """Follows the speed that passes really have: the warm-up may have had the machine for itself, or not."""
        self.memory = tick.memory
        for model in {step.model for step in tick.steps}.intersection(self.speeds):
            steps = [step for step in tick.steps if step.model == model]
            seconds = sum(step.seconds for step in steps)
            if seconds > 0:
                speed = sum(step.gflop for step in steps) / seconds
                self.speeds[model] = max((1 - SMOOTHING) * self.speeds[model] + SMOOTHING * speed, MIN_GFLOP_PER_SECOND)
