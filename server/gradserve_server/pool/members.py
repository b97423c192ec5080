"""The workers of a pool and the tasks that they are given, as the front-end keeps them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..engine.costs import passes_cost
from ..models.card import ModelCard, Precision
from .forecast import Load, Prospect
from .handle import Handle
from .watchdog import WorkerState
from .wire import Beat, Outcome, Preview, Ready, Task, Tick, WorkerSettings

SMOOTHING = 0.2  # Weight of the newest statistics in a worker's speed.
MIN_SHARE_LEFT = 0.05  # Least share of its cost that is still to do, since a task may need more rows than expected.
MIN_GFLOP_PER_SECOND = 1e-9  # Lowest speed of a worker, so that nothing is divided by zero.
DEATH_CAUSES = "(out of memory? a crash in its builder?)"


@dataclass(eq=False)
class Pending:
    """A task that has no outcome yet."""

    task: Task
    replies: asyncio.Queue[Outcome | Preview] = field(default_factory=asyncio.Queue)
    worker: "Member | None" = None  # The worker that runs it.
    deaths: int = 0  # How many workers died while they ran it.
    moves: int = 0  # How many silent workers it was taken from.


@dataclass(eq=False)
class Member:
    """A worker as the pool sees it."""

    settings: WorkerSettings
    handle: Handle
    state: WorkerState = "loading"
    heard: float = 0.0  # When its process last spoke, on the monotonic clock like all times here.
    beat: Beat = field(default_factory=Beat)  # Its process's last heartbeat.
    ready_since: float | None = None  # When its process became ready.
    deaths: int = 0  # Deaths in a row.
    due: float = 0.0  # When it is started again, while it is down.
    memory: int = 0  # Bytes in use.
    unavailable: Mapping[str, str] = field(default_factory=dict)  # Reasons by the models that it could not load.
    loading: str = ""  # Name of the model that it loads now.
    died: dict[str, str] = field(default_factory=dict)  # Reasons by the models that killed its process at the start.
    cards: Mapping[str, ModelCard] = field(default_factory=dict)  # Cards of its models by name.
    speeds: dict[tuple[str, Precision], float] = field(default_factory=dict)  # GFLOP per second.
    first_speeds: Mapping[tuple[str, Precision], float] = field(default_factory=dict)  # Those of the warm-up.
    rows: Mapping[tuple[str, Precision], int] = field(default_factory=dict)  # Rows of a full pass.
    done: Mapping[str, float] = field(default_factory=dict)  # GFLOP done for tasks that have begun, by id.
    pending: dict[str, Pending] = field(default_factory=dict)  # Its tasks by id.

    @property
    def ready(self) -> bool:
        """Whether it takes tasks."""
        return self.state == "ready"

    @property
    def name(self) -> str:
        """What log lines call it."""
        return f"the worker on {self.settings.device} (process {self.handle.pid})"

    def ready_seconds(self, now: float) -> float:
        """For how long its process has been ready."""
        return 0.0 if self.ready_since is None else now - self.ready_since

    def start(self, handle: Handle, now: float) -> None:
        """Takes a new process in the place of the one that died."""
        self.handle, self.state, self.heard, self.beat, self.loading = handle, "loading", now, Beat(), ""

    @property
    def cost(self) -> float:
        """GFLOP outstanding."""
        return sum(pending.task.cost for pending in list(self.pending.values()))

    def knows(self, task: Task | Prospect) -> bool:
        """Whether its speed on the task's model and precision was measured."""
        return (task.model, task.precision) in self.speeds

    def row_seconds(self, task: Task | Prospect) -> float:
        """Seconds of one gradient on the task's model."""
        return passes_cost(self.cards[task.model].gflop, "image") / self.speeds[task.model, task.precision]

    def rows_of(self, task: Task | Prospect) -> int:
        """Rows of a full pass over the task's model."""
        return 1 if task.alone else self.rows.get((task.model, task.precision), 1)

    def least_seconds(self, task: Task) -> float:
        """Seconds that a task takes at least: lone rows are slower than the full passes of the warm-up."""
        kind = task.model, task.precision
        return task.least_cost / max(self.speeds[kind], self.first_speeds[kind])

    def seconds(self, task: Task | Prospect) -> float:
        """Seconds that a task takes here alone."""
        return task.cost / self.speeds[task.model, task.precision]

    def loads(self) -> list[Load]:
        """What is outstanding here."""
        return [self._load(pending.task) for pending in list(self.pending.values()) if self.knows(pending.task)]

    def left(self, task: Task) -> float:
        """GFLOP that are still to do of a task."""
        return max(MIN_SHARE_LEFT * task.cost, task.cost - self.done.get(task.id, 0.0))

    def _load(self, task: Task) -> Load:
        left = self.left(task) / self.speeds[task.model, task.precision]
        row, interactive = self.row_seconds(task), task.priority == "interactive"
        return Load(task.caller, task.weight, interactive, left, row, self.rows_of(task), begun=task.id in self.done)

    def begin(self, ready: Ready, now: float) -> None:
        """Notes that its process is ready for tasks."""
        self.state, self.ready_since, self.loading = "ready", now, ""
        self.unavailable = {**ready.unavailable, **self.died}
        self.cards = {card.name: card for card in ready.cards}
        self.speeds = {kind: max(speed, MIN_GFLOP_PER_SECOND) for kind, speed in ready.speeds.items()}
        self.first_speeds, self.rows, self.done = dict(self.speeds), ready.rows, {}

    def reply(self, message: Outcome | Preview) -> None:
        """Hands a message on to who waits for its task; the task may be answered, cancelled or moved already."""
        pending = self.pending.get(message.id)
        if pending is None:
            return
        if isinstance(message, Outcome):
            del self.pending[message.id]
        pending.replies.put_nowait(message)

    def leave_out(self) -> str:
        """Leaves out the model that its process died of while loading; returns why that model is not served."""
        name, self.loading = self.loading, ""
        self.settings = replace(self.settings, models=tuple(m for m in self.settings.models if m.name != name))
        self.died[name] = (
            f"the worker died while loading it {DEATH_CAUSES}; leave it out, or try it alone: --model {name}"
        )
        return self.died[name]

    def learn(self, tick: Tick) -> None:
        """Updates speeds from the latest passes: those of the warm-up depend on what else the machine did then.

        What the worker does between its passes counts as well, since the tasks of small models wait for it.
        """
        self.memory, self.done = tick.memory, tick.progress
        in_passes = sum(each.seconds for each in tick.passes)
        if in_passes <= 0:
            return
        overhead = max(1.0, tick.busy / in_passes)
        for kind in {(each.model, each.precision) for each in tick.passes} & self.speeds.keys():
            passes = [each for each in tick.passes if (each.model, each.precision) == kind]
            seconds = sum(each.seconds for each in passes)
            if seconds > 0:
                speed = sum(each.gflop for each in passes) / seconds / overhead
                self.speeds[kind] = max((1 - SMOOTHING) * self.speeds[kind] + SMOOTHING * speed, MIN_GFLOP_PER_SECOND)
