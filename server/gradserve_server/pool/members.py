"""The workers of a pool and the tasks that they are given, as the front-end keeps them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..models.card import ModelCard
from .handle import Handle
from .wire import Outcome, Preview, Ready, Task, Tick, WorkerSettings

SMOOTHING = 0.2  # weight of the newest statistics in a worker's speed
MIN_GFLOP_PER_SECOND = 1e-9  # lowest speed of a worker, so that nothing is divided by zero
DEATH_CAUSES = "(out of memory? a crash in its builder?)"


@dataclass(eq=False)
class Pending:
    """A task that has no outcome yet."""

    task: Task
    replies: asyncio.Queue[Outcome | Preview] = field(default_factory=asyncio.Queue)
    worker: "Member | None" = None  # the worker that runs it
    attempts: int = 0  # how many workers have been given it


@dataclass(eq=False)
class Member:
    """A worker as the pool sees it."""

    settings: WorkerSettings
    handle: Handle
    ready: bool = False
    failures: int = 0  # deaths since it was last ready
    memory: int = 0  # bytes in use
    unavailable: Mapping[str, str] = field(default_factory=dict)  # reasons by the models that it could not load
    loading: str = ""  # name of the model that it loads now
    died: dict[str, str] = field(default_factory=dict)  # reasons by the models that killed its process at the start
    cards: Mapping[str, ModelCard] = field(default_factory=dict)  # cards of its models by name
    speeds: dict[str, float] = field(default_factory=dict)  # GFLOP per second by model; small models are slower
    pending: dict[str, Pending] = field(default_factory=dict)  # its tasks by id

    @property
    def cost(self) -> float:
        """GFLOP outstanding."""
        return sum(p.task.cost for p in self.pending.values())

    def wait(self, task: Task) -> float:
        """Seconds that other tasks' rows take before this task ends; dealt evenly, each has no more than this task."""
        own = self._seconds(task)
        return sum(min(self._seconds(p.task), own) for p in self.pending.values())

    def _seconds(self, task: Task) -> float:
        return task.cost / self.speeds[task.model]

    def begin(self, ready: Ready) -> None:
        """Notes that its process is ready for tasks."""
        self.ready, self.failures, self.loading = True, 0, ""
        self.unavailable = {**ready.unavailable, **self.died}
        self.cards = {card.name: card for card in ready.cards}
        self.speeds = {model: max(speed, MIN_GFLOP_PER_SECOND) for model, speed in ready.speeds.items()}

    def leave_out(self) -> str:
        """Leaves out the model that its process died of while loading; returns why that model is not served."""
        name, self.loading = self.loading, ""
        self.settings = replace(self.settings, models=tuple(m for m in self.settings.models if m.name != name))
        self.died[name] = (
            f"the worker died while loading it {DEATH_CAUSES}; leave it out, or try it alone: --model {name}"
        )
        return self.died[name]

    def learn(self, tick: Tick) -> None:
        """Updates speeds from passes: in the warm-up other processes may or may not have been busy too."""
        self.memory = tick.memory
        for model in {step.model for step in tick.steps}.intersection(self.speeds):
            steps = [step for step in tick.steps if step.model == model]
            seconds = sum(step.seconds for step in steps)
            if seconds > 0:
                speed = sum(step.gflop for step in steps) / seconds
                self.speeds[model] = max((1 - SMOOTHING) * self.speeds[model] + SMOOTHING * speed, MIN_GFLOP_PER_SECOND)
